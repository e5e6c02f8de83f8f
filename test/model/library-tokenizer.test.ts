import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import reference from "../fixtures/tokenizers/sentencepiece.json";
import {
  SENTENCEPIECE_VARIANTS,
  variantTokenizer,
} from "../helpers/tokenizers.ts";

type Case = readonly [
  text: string,
  ids: number[],
  decoded: string,
  decodedPlain: string,
];

const tokenizerOf = (name: string): Tokenizer =>
  variantTokenizer(SENTENCEPIECE_VARIANTS.find((it) => it.name === name)!);
const llama = tokenizerOf("Llama 2");
const plain = { addSpecialTokens: false };

describe("tokenizers through the library", () => {
  test.each(reference.map(({ name, cases }) => [name, cases] as const))(
    "agree with the original: %s",
    (name, cases) => {
      const tokenizer = tokenizerOf(name);
      for (const [
        text,
        ids,
        decoded,
        decodedPlain,
      ] of cases as unknown as Case[]) {
        expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
        expect(tokenizer.decode(ids)).toBe(decoded);
        expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(
          decodedPlain,
        );
      }
      expect(cases.length).toBeGreaterThan(0);
    },
  );

  test.each(
    SENTENCEPIECE_VARIANTS.map((variant) => [variant.name, variant] as const),
  )("say over time what decode says at once: %s", (_, variant) => {
    const tokenizer = variantTokenizer(variant);
    const ids = fc.array(fc.integer({ min: 0, max: tokenizer.vocabSize }), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(ids, fc.boolean(), (tokens, skipSpecialTokens) => {
        const detokenizer = tokenizer.detokenizer({ skipSpecialTokens });
        const pushed =
          tokens.map((id) => detokenizer.push(id)).join("") +
          detokenizer.flush();
        expect(pushed).toBe(tokenizer.decode(tokens, { skipSpecialTokens }));
      }),
      { numRuns: 100 },
    );
  });
});

describe("a SentencePiece-style tokenizer with byte fallback", () => {
  test("gives back any text that it encodes", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 20 }), (text) => {
        // The mark of a space is a space to it.
        const spaced = text.replaceAll("▁", " ");
        const ids = llama.encode(spaced, { ...plain, parseSpecial: false });
        expect(llama.decode(ids)).toBe(spaced);
      }),
      { numRuns: 300 },
    );
  });

  test("gives a byte token its byte, and spaces for the marks of others", () => {
    expect(llama.tokenBytes(llama.tokenId("<0x0A>")!)).toEqual(
      Uint8Array.of(10),
    );
    expect(llama.tokenBytes(llama.tokenId("▁cat")!)).toEqual(
      new TextEncoder().encode(" cat"),
    );
    expect(llama.tokenBytes(llama.tokenId("</s>")!)).toEqual(
      new TextEncoder().encode("</s>"),
    );
  });

  test("drops the first space of a text and no other", () => {
    const cat = llama.tokenId("▁cat")!;
    const detokenizer = llama.detokenizer();
    expect([
      detokenizer.push(cat),
      detokenizer.push(cat),
      detokenizer.flush(),
    ]).toEqual(["cat", " cat", ""]);
    expect(llama.decode([1, cat], { skipSpecialTokens: true })).toBe("cat");
    expect(llama.decode([1, cat])).toBe("<s> cat");
  });

  test("builds a character from byte tokens, and only whole ones", () => {
    const detokenizer = llama.detokenizer();
    const bytes = Array.from(new TextEncoder().encode("二"), (byte) =>
      llama.tokenId(`<0x${byte.toString(16).toUpperCase()}>`),
    );
    expect(bytes.map((id) => detokenizer.push(id!))).toEqual(["", "", "二"]);
  });

  test("takes special tokens from text only when it may", () => {
    expect(llama.encode("a</s>", plain).at(-1)).toBe(2);
    const ids = llama.encode("a</s><s>", { ...plain, parseSpecial: false });
    expect(ids.filter((id) => llama.isSpecial(id))).toEqual([]);
    expect(llama.decode(ids)).toBe("a</s><s>");
    const marked = llama.encode("a<\ufdd0/s></s>", {
      ...plain,
      mark: "\ufdd0",
    });
    expect(marked).toEqual([
      ...llama.encode("a</s>", { ...plain, parseSpecial: false }),
      2,
    ]);
  });

  test("encodes a very long text without spaces", () => {
    const ids = llama.encode("X".repeat(100_000), plain);
    expect(llama.decode(ids)).toBe("X".repeat(100_000));
  });
});
