import { describe, expect, test } from "bun:test";
import { OffsetCounter, tokenForm } from "../../src/http/openai/token-text.ts";
import { EOS, FAKE_VOCAB, fakeTokenizer } from "../helpers/fake-tokenizer.ts";

describe("a token's form", () => {
  test.each([
    [65, "A", [65]],
    [0xe2, "bytes:\\xe2", [0xe2]],
    [EOS, "</s>", [60, 47, 115, 62]],
    [FAKE_VOCAB + 5, `token_id:${FAKE_VOCAB + 5}`, null],
  ])("of %p is %p", (id, text, bytes) => {
    expect(tokenForm(fakeTokenizer, id, false)).toEqual({ text, bytes });
  });

  test("is its id where there is no tokenizer, or the client asked", () => {
    expect(tokenForm(null, 7, false)).toEqual({ text: "token_id:7", bytes: null });
    expect(tokenForm(fakeTokenizer, 65, true)).toEqual({ text: "token_id:65", bytes: [65] });
  });
});

describe("text offsets", () => {
  const offsets = (ids: readonly number[], skipSpecialTokens: boolean) => {
    const counter = new OffsetCounter(fakeTokenizer, skipSpecialTokens);
    return ids.map((id) => counter.push(id));
  };

  test("count code points, which appear with their last byte", () => {
    expect(offsets([...new TextEncoder().encode("é👋a"), 65], true)).toEqual([0, 0, 1, 1, 1, 1, 2, 3]);
  });

  test("count special tokens only where they are shown", () => {
    expect(offsets([EOS, 65, 66], true)).toEqual([0, 0, 1]);
    expect(offsets([EOS, 65, 66], false)).toEqual([0, 4, 5]);
  });

  test("pass over tokens beyond the tokenizer", () => {
    expect(offsets([65, FAKE_VOCAB + 1, 66], false)).toEqual([0, 1, 1]);
  });
});
