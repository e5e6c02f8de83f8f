/** What restricts a sequence's output to the texts of a grammar, as the engine and its callers see it. */
import type { LorikeetError } from "./errors.ts";

/** A grammar as a user gives it. */
export type GrammarSpec =
  /** Any JSON object. */
  | { readonly type: "json_object" }
  /** JSON that the schema accepts; `schema` is its JSON text. */
  | { readonly type: "json_schema"; readonly schema: string }
  /** A text that matches from start to end. */
  | { readonly type: "regex"; readonly pattern: string }
  /** One of the texts, none empty. */
  | { readonly type: "choice"; readonly choices: readonly string[] }
  /** GBNF-like rules, the first of them `root`. */
  | { readonly type: "ebnf"; readonly grammar: string }
  /** Free text with parts that must keep to a form; `format` is XGrammar's structural tag format as JSON text. */
  | { readonly type: "structural_tag"; readonly format: string };

/** A compiled grammar. */
export interface Grammar {
  /**
   * A place at the start of the grammar, for one sequence. Whoever starts it ends it.
   *
   * @param onReady called whenever `isReady` has become true
   */
  start(onReady: () => void): GrammarCursor;
}

/** Where in a grammar one sequence's output is. */
export interface GrammarCursor {
  /** Whether `allowed` is of the present place; false for a moment after each `accept`. */
  readonly isReady: boolean;
  /** One bit per token of the vocabulary, lowest bit first; set for those that may come next. */
  readonly allowed: Int32Array;
  /** Why the place is lost; `isReady` is true then. */
  readonly failure: LorikeetError | null;
  /** Moves on by a token that was allowed. */
  accept(token: number): void;
  end(): void;
}
