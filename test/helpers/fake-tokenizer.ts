/** One token per byte, and three special tokens above them. */
import type { Detokenizer, Tokenizer } from "../../src/model/tokenizer.ts";

const SPECIAL = ["<s>", "</s>", "<|user|>"];
export const FAKE_VOCAB = 256 + SPECIAL.length;
export const BOS = 256;
export const EOS = 257;

const encoder = new TextEncoder();
const tokenBytes = (id: number): Uint8Array =>
  id < 256 ? Uint8Array.of(id) : encoder.encode(SPECIAL[id - 256]);

function detokenizer({ skipSpecialTokens = false } = {}): Detokenizer {
  const decoder = new TextDecoder();
  return {
    push: (id) => (skipSpecialTokens && id >= 256 ? "" : decoder.decode(tokenBytes(id), { stream: true })),
    flush: () => decoder.decode(),
  };
}

export const fakeTokenizer: Tokenizer = {
  vocabSize: FAKE_VOCAB,
  encode: (text, { addSpecialTokens = true } = {}) => [
    ...(addSpecialTokens ? [BOS] : []),
    ...encoder.encode(text),
  ],
  decode: (ids, options) => {
    const decoder = detokenizer(options);
    return ids.map((id) => decoder.push(id)).join("") + decoder.flush();
  },
  tokenBytes,
  isSpecial: (id) => id >= 256,
  tokenId: (content) => {
    const at = SPECIAL.indexOf(content);
    return at === -1 ? undefined : 256 + at;
  },
  detokenizer,
};
