import { afterEach, describe, expect, test } from "bun:test";
import { NativeError, RequestError } from "../../src/core/errors.ts";
import type { Grammar, GrammarCursor } from "../../src/core/grammar.ts";
import { Grammars } from "../../src/grammar/grammars.ts";

/** One token per ASCII character, and an end token. */
const END = 128;
const BYTES = Array.from({ length: 128 }, (_, code) => (code > 32 && code < 127 ? String.fromCharCode(code) : ""));
const vocabulary = () => ({ vocab: [...BYTES, ""], vocabSize: 160, stopTokens: [END] });

const opened: Grammars[] = [];
const open = (maxCompileMs?: number): Grammars => {
  const grammars = new Grammars(vocabulary, maxCompileMs);
  opened.push(grammars);
  return grammars;
};
afterEach(() => {
  for (const grammars of opened.splice(0)) grammars.close();
});

interface Started {
  readonly cursor: GrammarCursor;
  /** Resolves at the next mask. */
  readonly next: () => Promise<void>;
}
function start(grammar: Grammar): Started {
  let wake = Promise.withResolvers<void>();
  const cursor = grammar.start(() => wake.resolve());
  return {
    cursor,
    next: async () => {
      await wake.promise;
      wake = Promise.withResolvers();
    },
  };
}
const allowedOf = ({ allowed }: GrammarCursor): string =>
  Array.from({ length: 160 }, (_, id) => id).filter((id) => ((allowed[id >> 5]! >>> (id & 31)) & 1) === 1).map((id) => (id === END ? "END" : String.fromCharCode(id))).join("");

describe("a cursor", () => {
  test("knows what may come next, token by token, up to the end", async () => {
    const { cursor, next } = start(await open().compile({ type: "regex", pattern: "a[bc]d?" }));
    expect(cursor.isReady).toBe(false);
    const seen: string[] = [];
    for (const char of "abd") {
      await next();
      expect(cursor.isReady).toBe(true);
      seen.push(allowedOf(cursor));
      cursor.accept(char.charCodeAt(0));
      expect(cursor.isReady).toBe(false);
    }
    await next();
    expect([...seen, allowedOf(cursor)]).toEqual(["a", "bc", "dEND", "END"]);
    cursor.end();
  });

  test("of many share one compiled grammar and do not disturb each other", async () => {
    const grammars = open();
    const spec = { type: "choice", choices: ["one", "two"] } as const;
    const [first, second] = [start(await grammars.compile(spec)), start(await grammars.compile(spec))];
    await Promise.all([first.next(), second.next()]);
    first.cursor.accept("t".charCodeAt(0));
    await first.next();
    expect([allowedOf(first.cursor), allowedOf(second.cursor)]).toEqual(["w", "ot"]);
  });

  test("that is given a token which does not fit is lost, and says so", async () => {
    const { cursor, next } = start(await open().compile({ type: "regex", pattern: "ab" }));
    await next();
    cursor.accept("z".charCodeAt(0));
    await next();
    expect(cursor.failure).toBeInstanceOf(NativeError);
    expect(cursor.isReady).toBe(true);
  });
});

describe("a grammar that is none", () => {
  test("is refused, and neither those in use nor later ones are harmed", async () => {
    const grammars = open();
    const { cursor, next } = start(await grammars.compile({ type: "regex", pattern: "xyz" }));
    await next();
    const refused = await grammars.compile({ type: "regex", pattern: "(" }).catch((thrown: unknown) => thrown);
    expect(refused).toBeInstanceOf(RequestError);
    expect((refused as Error).message).toContain("parenthesis");
    cursor.accept("x".charCodeAt(0));
    await next();
    expect(allowedOf(cursor)).toBe("y");
    const later = start(await grammars.compile({ type: "regex", pattern: "xyz" }));
    await later.next();
    expect(allowedOf(later.cursor)).toBe("x");
  });

  test("or takes too long, is given up, and the next one is compiled", async () => {
    const grammars = open(1);
    const refused = await grammars.compile({ type: "json_object" }).catch((thrown: unknown) => thrown);
    expect(refused).toBeInstanceOf(RequestError);
    expect((refused as Error).message).toContain("took longer than");
  });
});

test("closing loses every cursor, so that nobody waits for it", async () => {
  const grammars = open();
  const { cursor, next } = start(await grammars.compile({ type: "regex", pattern: "ab" }));
  await next();
  cursor.accept("a".charCodeAt(0));
  grammars.close();
  await next();
  expect(cursor.failure).toBeInstanceOf(NativeError);
});
