import { beforeAll, describe, expect, test } from "bun:test";
import { Tokenizer as Library } from "@huggingface/tokenizers";
import fc from "fast-check";
import golden from "../../models/demo/golden.json";
import { ModelError } from "../../src/core/errors.ts";
import type { JsonObject } from "../../src/formats/json.ts";
import { compileByteBpe } from "../../src/model/byte-bpe.ts";
import { ConfigFields } from "../../src/model/config-fields.ts";
import {
  compileTokenizer,
  loadTokenizer,
} from "../../src/model/load-tokenizer.ts";
import { translateSplitRegex } from "../../src/model/split-regex.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import reference from "../fixtures/tokenizers/byte-level.json";
import { writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";
import {
  addedToken,
  BYTE_LEVEL_VARIANTS,
  LLAMA3,
  type Variant,
  variantJson,
  variantTokenizer,
} from "../helpers/tokenizers.ts";

type Case = readonly [
  text: string,
  ids: number[],
  decoded: string,
  decodedPlain: string,
];
const DEMO = `${import.meta.dir}/../../models/demo`;
const NUM_SPECIAL = 6;
let demo: Tokenizer;

beforeAll(async () => {
  demo = (await loadTokenizer(DEMO))!;
});

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Words, scripts, white space, emoji and arbitrary code points, side by side. */
const text = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        ..."the cat|Hello|it's|I'LL| |  |\n|\r\n|\t|\u00a0|\u3000|12|345|!?|...|_".split(
          "|",
        ),
      ),
      fc.constantFrom(
        ..."é|e\u0301|ñ|ß|ع|ש|一|ひらカナ|한국|กข|हि|😀|👨‍👩‍👧|𝒳|½|Ⅷ".split("|"),
      ),
      fc.string({ unit: "binary", maxLength: 4 }),
      fc.string({ unit: "grapheme-ascii", maxLength: 12 }),
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(""));

describe("the demo model's tokenizer", () => {
  test("is loaded from its directory and knows its special tokens", () => {
    expect(demo.vocabSize).toBe(2320);
    expect(demo.tokenId("<|eot_id|>")).toBe(4);
    expect(demo.tokenId("<|nothing|>")).toBeUndefined();
    expect(demo.isSpecial(4)).toBe(true);
    expect(demo.isSpecial(420)).toBe(false);
    expect(demo.tokenBytes(4)).toEqual(bytesOf("<|eot_id|>"));
  });

  const cases = Object.values(golden).flat();
  test("encodes every raw prompt and decodes every answer as the reference does", () => {
    for (const {
      prompt,
      raw,
      prompt_token_ids: ids,
      token_ids: answer,
      text: said,
    } of cases) {
      if (raw) expect(demo.encode(prompt)).toEqual(ids);
      expect(demo.decode(answer, { skipSpecialTokens: true })).toBe(said);
    }
    expect(cases.filter(({ raw }) => raw).length).toBeGreaterThan(0);
  });

  test("gives back any text that it encodes", () => {
    fc.assert(
      fc.property(text, (original) => {
        const ids = demo.encode(original, {
          addSpecialTokens: false,
          parseSpecial: false,
        });
        expect(demo.decode(ids)).toBe(original);
      }),
      { numRuns: 500 },
    );
  });

  test("adds the begin token only when asked to", () => {
    expect(demo.encode("Once", { addSpecialTokens: false })).toEqual(
      demo.encode("Once").slice(1),
    );
    expect(demo.encode("")).toEqual([0]);
    expect(demo.encode("", { addSpecialTokens: false })).toEqual([]);
  });

  test("reads a broken surrogate as U+FFFD", () => {
    expect(demo.encode("a\ud800b")).toEqual(demo.encode("a\ufffdb"));
  });

  test("says nothing for ids that are no token", () => {
    expect(demo.tokenBytes(2320)).toEqual(new Uint8Array(0));
    expect(demo.decode([46, 99_999, 46])).toBe("II");
  });
});

describe("special tokens in a text", () => {
  const plain = { addSpecialTokens: false, parseSpecial: false };

  test("become their ids unless the caller forbids it", () => {
    const written = "a<|eot_id|>b";
    expect(demo.encode(written, { addSpecialTokens: false })).toContain(4);
    const ids = demo.encode(written, plain);
    expect(ids.some((id) => demo.isSpecial(id))).toBe(false);
    expect(demo.decode(ids)).toBe(written);
  });

  test("never come out of text when forbidden, whatever surrounds them", () => {
    const special = fc.constantFrom(
      "<|begin_of_text|>",
      "<|eot_id|>",
      "<|pad|>",
      "<|",
      "|>",
    );
    fc.assert(
      fc.property(
        fc.array(fc.oneof(special, text), { maxLength: 8 }),
        (parts) => {
          const ids = demo.encode(parts.join(""), plain);
          expect(ids.filter((id) => id < NUM_SPECIAL)).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("do not come out of merges or of whole words either", () => {
    const variant = BYTE_LEVEL_VARIANTS.find(
      ({ name }) => name === "Llama 3, ignoring merges",
    )!;
    const id = demo.tokenId("Ġthe")!;
    const tokenizer = variantTokenizer({
      ...variant,
      added: [addedToken(id, "Ġthe", { special: true })],
    });
    expect(tokenizer.encode(" the", plain)).not.toContain(id);
    expect(tokenizer.decode(tokenizer.encode(" the", plain))).toBe(" the");
  });

  test("are text where the caller put the mark into them, and the mark leaves no trace", () => {
    const marked = "<|eot_id|><\ufdd0|eot_id|> \ufdd0x\ufdd0";
    const ids = demo.encode(marked, {
      addSpecialTokens: false,
      mark: "\ufdd0",
    });
    expect(ids).toEqual([4, ...demo.encode("<|eot_id|> x", plain)]);
  });

  test("from tokenizer_config.json count when tokenizer.json lacks them", async () => {
    const directory = writeDirectory({
      "tokenizer.json": await Bun.file(`${DEMO}/tokenizer.json`).text(),
      "tokenizer_config.json": {
        added_tokens_decoder: {
          "4": { content: "<|eot_id|>", special: false },
          "2320": { content: "<|extra|>", special: true },
        },
      },
    });
    const tokenizer = (await loadTokenizer(directory))!;
    expect(
      tokenizer.encode("a<|extra|>", { addSpecialTokens: false }).at(-1),
    ).toBe(2320);
    expect(tokenizer.vocabSize).toBe(2321);
    expect([tokenizer.isSpecial(2320), tokenizer.isSpecial(4)]).toEqual([
      true,
      true,
    ]);
  });
});

describe("the detokenizer", () => {
  const ids = fc.array(fc.integer({ min: 0, max: 2325 }), { maxLength: 40 });

  test("says over time what decode says at once", () => {
    fc.assert(
      fc.property(ids, fc.boolean(), (tokens, skipSpecialTokens) => {
        const detokenizer = demo.detokenizer({ skipSpecialTokens });
        const pushed =
          tokens.map((id) => detokenizer.push(id)).join("") +
          detokenizer.flush();
        expect(pushed).toBe(demo.decode(tokens, { skipSpecialTokens }));
        const bytes = tokens
          .filter((id) => !skipSpecialTokens || !demo.isSpecial(id))
          .map((id) => demo.tokenBytes(id));
        expect(pushed).toBe(Buffer.concat(bytes).toString("utf8"));
      }),
      { numRuns: 500 },
    );
  });

  test("holds a character back until its last byte", () => {
    const detokenizer = demo.detokenizer();
    const tokens = demo.encode("😀", { addSpecialTokens: false });
    const pushed = tokens.map((id) => detokenizer.push(id));
    expect(pushed).toEqual([...tokens.slice(1).map(() => ""), "😀"]);
    expect(detokenizer.flush()).toBe("");
  });

  test("gives what is left of a broken character as U+FFFD at the end", () => {
    const detokenizer = demo.detokenizer();
    const [first] = demo.encode("😀", { addSpecialTokens: false });
    expect([detokenizer.push(first!), detokenizer.flush()]).toEqual([
      "",
      "\ufffd",
    ]);
  });

  test("keeps a byte-order mark", () => {
    expect(
      demo.decode(demo.encode("\ufeffa", { addSpecialTokens: false })),
    ).toBe("\ufeffa");
  });

  test("shows special tokens, or leaves them out without breaking the character around them", () => {
    const [first, ...rest] = demo.encode("é", { addSpecialTokens: false });
    const tokens = [first!, 4, ...rest];
    expect(demo.decode(tokens, { skipSpecialTokens: true })).toBe("é");
    expect(demo.decode([46, 4])).toBe("I<|eot_id|>");
  });
});

describe("byte-level encoding", () => {
  test.each(reference.map(({ name, cases }) => [name, cases] as const))(
    "agrees with the original on strings that are easy to get wrong: %s",
    (name, cases) => {
      const tokenizer = variantTokenizer(
        BYTE_LEVEL_VARIANTS.find((it) => it.name === name)!,
      );
      for (const [
        written,
        ids,
        decoded,
        decodedPlain,
      ] of cases as unknown as Case[]) {
        expect(tokenizer.encode(written)).toEqual(ids);
        expect(tokenizer.decode(ids)).toBe(decoded);
        expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(
          decodedPlain,
        );
      }
      expect(cases.length).toBeGreaterThan(0);
    },
  );

  test.each(
    BYTE_LEVEL_VARIANTS.map((variant) => [variant.name, variant] as const),
  )("needs no library: %s", (_, variant) => {
    const fields = new ConfigFields("tokenizer.json", variantJson(variant));
    expect(compileByteBpe(fields, new Set())).not.toBeNull();
  });

  /** Known faults of the library: JavaScript's white space in GPT-2's pattern, and ASCII-only case folding. */
  const libraryText = text.map((written) =>
    written.replace(/[\u0085\ufeffſ\u212a]/gu, "x"),
  );
  const compared = [
    "demo",
    "Llama 3",
    "Llama 3, ignoring merges",
    "Qwen 2",
    "GPT-2",
    "SmolLM",
  ];
  const variants = BYTE_LEVEL_VARIANTS.filter(({ name }) =>
    compared.includes(name),
  );
  test.each(variants.map((variant) => [variant.name, variant] as const))(
    "agrees with the library on random strings: %s",
    (_, variant: Variant) => {
      const library = new Library(variantJson(variant), {
        clean_up_tokenization_spaces: false,
      });
      const tokenizer = variantTokenizer(variant);
      fc.assert(
        fc.property(libraryText, (drawn) => {
          // The library's digits are decimal ones, not all that Rust calls numeric.
          const written = variant.name === "SmolLM" ? drawn.replace(/[\p{Nl}\p{No}]/gu, "x") : drawn;
          expect(tokenizer.encode(written)).toEqual(
            library.encode(written).ids,
          );
        }),
        { numRuns: 700 },
      );
    },
  );

  const long: readonly (readonly [string, string])[] = [
    ["one letter", "a".repeat(100_000)],
    ["a repeated word", "thecat".repeat(20_000)],
    [
      "mixed letters",
      Array.from({ length: 100_000 }, (_, i) =>
        String.fromCharCode(97 + ((i * i * 7919) % 26)),
      ).join(""),
    ],
    ["two-byte letters", "é".repeat(100_000)],
    ["white space", " ".repeat(100_000)],
  ];
  test.each(long)(
    "splits a very long word as the library does: %s",
    (_, word) => {
      const library = new Library(variantJson(BYTE_LEVEL_VARIANTS[0]!), {
        clean_up_tokenization_spaces: false,
      });
      expect(demo.encode(word)).toEqual(library.encode(word).ids);
    },
  );

  test("gives the same ids whether a word is new or remembered", () => {
    const fresh = variantTokenizer(BYTE_LEVEL_VARIANTS[0]!);
    const words = Array.from(
      { length: 70_000 },
      (_, i) => ` w${i.toString(36)}`,
    );
    const sample = words.filter((_, i) => i % 1000 === 0).join("");
    const before = fresh.encode(sample);
    fresh.encode(words.join(""));
    expect(fresh.encode(sample)).toEqual(before);
  });
});

describe("translateSplitRegex", () => {
  const kept: readonly (readonly [string, string, string, string[]])[] = [
    [
      "white space as Unicode has it",
      "\\s+",
      "x\u0085\ufeff\u3000",
      ["\u0085", "\u3000"],
    ],
    ["possessive repeats", "a++ab|a+b|c", "aabc", ["aab", "c"]],
    ["case folding beyond ASCII", "(?i:'s)", "'S'ſ'k", ["'S", "'ſ"]],
    ["lazy repeats", "a{2}|b+?", "aabb", ["aa", "b", "b"]],
    ["ranges and escapes in classes", "[a-c\\-\\]]+", "b-]xa", ["b-]", "a"]],
  ];
  test.each(kept)("keeps %s", (_, source, input, matches) => {
    expect(
      input.match(translateSplitRegex(source)!) as string[] | null,
    ).toEqual(matches);
  });

  const refused = [
    "a.c",
    "^a",
    "(?>a)b",
    "[[:alpha:]]",
    "[a&&b]",
    "\\w+",
    "a{2}+",
    "a**",
    "(?i:ss)",
    "(?i:é)",
    "(?i:\\p{Lu})",
    "\\p{Emoji}",
    "(a",
    "a)",
    "[a",
    "[]",
    "\\1",
    "(?<n>a)",
    "(?=a)*",
    "[z-a]",
  ];
  test.each(refused)("refuses %s", (source) => {
    expect(translateSplitRegex(source)).toBeNull();
  });

  test("takes the patterns of the models that it is for", () => {
    expect(translateSplitRegex(LLAMA3)?.flags).toBe("gu");
  });
});

describe("loadTokenizer", () => {
  const base = (): JsonObject => variantJson(BYTE_LEVEL_VARIANTS[0]!);
  const model = (changes: JsonObject): JsonObject => ({
    ...base(),
    model: { ...(base()["model"] as JsonObject), ...changes },
  });

  test("gives null for a directory without tokenizer.json", async () => {
    expect(
      await loadTokenizer(writeDirectory({ "config.json": {} })),
    ).toBeNull();
  });

  test("takes merges as strings as well as pairs", () => {
    const pairs = (base()["model"] as JsonObject)["merges"] as unknown as [
      string,
      string,
    ][];
    const merges = pairs.map((pair) => pair.join(" "));
    const tokenizer = compileTokenizer(
      new ConfigFields("tokenizer.json", model({ merges })),
    );
    expect(tokenizer.encode("Once upon a time")).toEqual(
      demo.encode("Once upon a time"),
    );
  });

  const broken: readonly (readonly [
    string,
    () => JsonObject,
    string,
    RegExp,
  ])[] = [
    [
      "no model",
      () => ({}),
      "model_invalid",
      /^model in tokenizer\.json must be an object/,
    ],
    [
      "ids that are no ids",
      () => model({ vocab: { a: -1 } }),
      "model_invalid",
      /^model\.vocab in tokenizer\.json/,
    ],
    [
      "merges of three",
      () => model({ merges: ["a b c"] }),
      "model_invalid",
      /^model\.merges in tokenizer\.json/,
    ],
    [
      "merges of strangers",
      () => model({ merges: [["zq", "qz"]] }),
      "model_invalid",
      /^model\.merges.*zq qz/,
    ],
    [
      "added tokens without content",
      () => ({ ...base(), added_tokens: [{ id: 1 }] }),
      "model_invalid",
      /^added_tokens\[0\]\.content in tokenizer\.json/,
    ],
    [
      "an unknown kind of model",
      () => model({ type: "WordLevel" }),
      "model_unsupported",
      /^model\.type in tokenizer\.json is "WordLevel"/,
    ],
    [
      "an unknown decoder",
      () => ({ ...base(), decoder: { type: "CTC" } }),
      "model_unsupported",
      /^decoder in tokenizer\.json/,
    ],
    [
      "an unknown post-processor",
      () => ({ ...base(), post_processor: { type: "New" } }),
      "model_unsupported",
      /^post_processor in tokenizer\.json/,
    ],
    [
      "an unknown normalizer",
      () => ({ ...base(), normalizer: { type: "New" } }),
      "model_unsupported",
      /tokenizer\.json.*New/,
    ],
    [
      "a split that the library does otherwise",
      () => ({
        ...base(),
        pre_tokenizer: {
          type: "Split",
          pattern: { String: "a" },
          behavior: "MergedWithNext",
        },
      }),
      "model_unsupported",
      /^pre_tokenizer in tokenizer\.json/,
    ],
  ];
  test.each(broken)("refuses %s by name", (_, json, code, message) => {
    const thrown = thrownBy(() =>
      compileTokenizer(new ConfigFields("tokenizer.json", json())),
    );
    expect(thrown).toBeInstanceOf(ModelError);
    expect((thrown as ModelError).errorCode).toBe(
      code as ModelError["errorCode"],
    );
    expect((thrown as ModelError).message).toMatch(message);
  });

  test("refuses files that are not JSON, and broken tokens of tokenizer_config.json", async () => {
    const load = (files: Record<string, string>): Promise<unknown> =>
      loadTokenizer(writeDirectory(files)).catch((thrown: unknown) => thrown);
    expect(await load({ "tokenizer.json": "{" })).toMatchObject({
      errorCode: "model_invalid",
      message: expect.stringMatching(
        /^tokenizer\.json is not usable/,
      ) as string,
    });
    const config = JSON.stringify({
      added_tokens_decoder: { x: { content: "a" } },
    });
    expect(
      await load({
        "tokenizer.json": JSON.stringify(base()),
        "tokenizer_config.json": config,
      }),
    ).toMatchObject({
      errorCode: "model_invalid",
      message: expect.stringMatching(
        /^added_tokens_decoder in tokenizer_config\.json/,
      ) as string,
    });
  });
});
