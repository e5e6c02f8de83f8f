/** The grammar library in a thread of its own: compiling and masks never hold up the event loop. */
import {
  type CompiledGrammar,
  GrammarCompiler,
  GrammarMatcher,
  TokenizerInfo,
} from "@mlc-ai/web-xgrammar";
import type { GrammarSpec } from "../core/grammar.ts";

declare const self: Worker;

export type GrammarCommand =
  | {
      readonly type: "open";
      /** Each token's bytes in GPT-2's byte-level letters; empty for special tokens. */
      readonly vocab: readonly string[];
      /** Rows of logits, at least as many as `vocab` has entries. */
      readonly vocabSize: number;
      readonly stopTokens: readonly number[];
    }
  | { readonly type: "compile"; readonly grammar: number; readonly spec: GrammarSpec }
  | { readonly type: "forget"; readonly grammar: number }
  | { readonly type: "start"; readonly grammar: number; readonly cursor: number; readonly mask: Int32Array }
  | { readonly type: "accept"; readonly cursor: number; readonly token: number }
  | { readonly type: "end"; readonly cursor: number };

export type GrammarFact =
  | { readonly type: "compiled"; readonly grammar: number }
  | { readonly type: "refused"; readonly grammar: number; readonly message: string }
  /** The mask has been written. */
  | { readonly type: "ready"; readonly cursor: number }
  | { readonly type: "lost"; readonly cursor: number; readonly message: string };

/** Most white space in a row between two parts of a JSON text; more would let a model go on with it for ever. */
const MAX_WHITESPACE = 20;

interface Cursor {
  readonly matcher: GrammarMatcher;
  readonly mask: Int32Array;
}

let compiler!: GrammarCompiler;
const grammars = new Map<number, CompiledGrammar>();
const cursors = new Map<number, Cursor>();
/** What the library prints before it aborts, which is all that it says of a mistake. */
let complaint = "";
console.error = console.warn = (...parts: unknown[]) => {
  complaint += parts.join(" ");
};

/** Commands run one after the other, in the order they came. */
let last: Promise<void> = Promise.resolve();

self.onmessage = ({ data }: MessageEvent<GrammarCommand>) => {
  last = last.then(() => handle(data));
};

async function handle(command: GrammarCommand): Promise<void> {
  switch (command.type) {
    case "open": {
      const { vocab, vocabSize, stopTokens } = command;
      const info = await TokenizerInfo.createTokenizerInfo([...vocab], "byte_level", false, vocabSize, [...stopTokens]);
      compiler = await GrammarCompiler.createGrammarCompiler(info, false);
      return;
    }
    case "compile":
      complaint = "";
      try {
        grammars.set(command.grammar, await compile(command.spec));
        return tell({ type: "compiled", grammar: command.grammar });
      } catch (thrown) {
        return tell({ type: "refused", grammar: command.grammar, message: reason(complaint) ?? String(thrown) });
      }
    case "forget":
      grammars.get(command.grammar)?.dispose();
      grammars.delete(command.grammar);
      return;
    case "start":
      return attempt(command.cursor, async () => {
        const matcher = await GrammarMatcher.createGrammarMatcher(grammars.get(command.grammar)!);
        const cursor = { matcher, mask: command.mask };
        cursors.set(command.cursor, cursor);
        await writeMask(cursor);
      });
    case "accept":
      return attempt(command.cursor, async () => {
        const cursor = cursors.get(command.cursor)!;
        if (!cursor.matcher.acceptToken(command.token)) throw new Error(`token ${command.token} does not fit the grammar`);
        await writeMask(cursor);
      });
    case "end":
      cursors.get(command.cursor)?.matcher.dispose();
      cursors.delete(command.cursor);
      return;
  }
}

function compile(spec: GrammarSpec): Promise<CompiledGrammar> {
  switch (spec.type) {
    case "json_object":
      return compileSchema('{"type":"object"}', false);
    case "json_schema":
      return compileSchema(spec.schema, true);
    case "regex":
      return compiler.compileStructuralTag(JSON.stringify({ type: "structural_tag", format: { type: "regex", pattern: spec.pattern } }));
    case "structural_tag":
      return compiler.compileStructuralTag(`{"type":"structural_tag","format":${spec.format}}`);
    case "choice":
      return compiler.compileGrammar(`root ::= ${spec.choices.map(literal).join(" | ")}`);
    case "ebnf":
      return compiler.compileGrammar(spec.grammar);
  }
}

/** @param isClosed whether an object has no more properties than the schema names, where it leaves that open */
const compileSchema = (schema: string, isClosed: boolean): Promise<CompiledGrammar> =>
  compiler.compileJSONSchema(schema, true, undefined, undefined, isClosed, MAX_WHITESPACE);

/** `[FATAL] file.cc:552: EBNF parser error at line 1: ...`, of which the sentence is for users. */
const reason = (printed: string): string | undefined => /\[FATAL\] \S+:\d+: (?:Check failed: .* is false: )?(.{1,400}?)(?:Aborted|$)/s.exec(printed)?.[1];

const literal = (text: string): string =>
  `"${text.replaceAll(/[^A-Za-z0-9 ]/gu, (char) => `\\U${char.codePointAt(0)!.toString(16).padStart(8, "0")}`)}"`;

async function writeMask({ matcher, mask }: Cursor): Promise<void> {
  if (matcher.isTerminated()) mask.fill(0);
  else mask.set(await matcher.getNextTokenBitmask());
}

async function attempt(cursor: number, work: () => Promise<void>): Promise<void> {
  try {
    await work();
    tell({ type: "ready", cursor });
  } catch (thrown) {
    tell({ type: "lost", cursor, message: String(thrown) });
  }
}

const tell = (fact: GrammarFact): void => self.postMessage(fact);
