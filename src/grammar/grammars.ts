/** The grammars in use, each compiled once. */
import { createHash } from "node:crypto";
import type { Grammar, GrammarSpec } from "../core/grammar.ts";
import { checkGrammar } from "./check-grammar.ts";
import { GrammarThread, type GrammarVocabulary } from "./grammar-thread.ts";

/** Most compiled grammars kept; the one that was not asked for the longest goes first. */
const MAX_GRAMMARS = 64;
const MAX_COMPILE_MS = 10_000;

interface Compiled {
  readonly thread: GrammarThread;
  readonly grammar: Promise<number>;
}

export class Grammars {
  readonly #vocabulary: () => GrammarVocabulary;
  readonly #maxCompileMs: number;
  /** In the order of their last use. */
  readonly #compiled = new Map<string, Compiled>();
  readonly #threads = new Set<GrammarThread>();
  #thread: GrammarThread | null = null;

  /** @param vocabulary asked for when the first grammar comes, since it takes time */
  constructor(vocabulary: () => GrammarVocabulary, maxCompileMs = MAX_COMPILE_MS) {
    this.#vocabulary = vocabulary;
    this.#maxCompileMs = maxCompileMs;
  }

  /** @throws {RequestError} `invalid_request` for what is no grammar, or asks for something that is not enforced */
  async compile(spec: GrammarSpec): Promise<Grammar> {
    checkGrammar(spec);
    const key = createHash("sha256").update(JSON.stringify(spec)).digest("base64");
    const compiled = this.#find(key) ?? this.#add(key, spec);
    try {
      const grammar = await compiled.grammar;
      return { start: (onReady) => compiled.thread.start(grammar, onReady) };
    } catch (thrown) {
      if (this.#compiled.get(key) === compiled) this.#compiled.delete(key);
      throw thrown;
    }
  }

  close(): void {
    for (const thread of this.#threads) thread.close();
  }

  #find(key: string): Compiled | undefined {
    const known = this.#compiled.get(key);
    this.#compiled.delete(key);
    if (known === undefined || known.thread.isSpent) return undefined;
    this.#compiled.set(key, known);
    return known;
  }

  #add(key: string, spec: GrammarSpec): Compiled {
    if (this.#thread === null || this.#thread.isSpent) this.#thread = this.#open();
    const compiled = { thread: this.#thread, grammar: this.#thread.compile(spec) };
    this.#compiled.set(key, compiled);
    for (const [oldest, { thread, grammar }] of this.#compiled) {
      if (this.#compiled.size <= MAX_GRAMMARS) break;
      this.#compiled.delete(oldest);
      grammar.then(
        (number) => thread.forget(number),
        () => undefined,
      );
    }
    return compiled;
  }

  #open(): GrammarThread {
    for (const thread of this.#threads) if (thread.isOver) this.#threads.delete(thread);
    const thread = new GrammarThread(this.#vocabulary(), this.#maxCompileMs);
    this.#threads.add(thread);
    return thread;
  }
}
