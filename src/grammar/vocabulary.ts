/** A model's tokens in the form that the grammar library takes. */
import { BYTE_CHARS } from "../model/byte-level.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { GrammarVocabulary } from "./grammar-thread.ts";

/** @complexity O(bytes of the vocabulary) */
export function grammarVocabulary(tokenizer: Tokenizer, vocabSize: number, stopTokens: readonly number[]): GrammarVocabulary {
  const vocab = Array.from({ length: Math.min(tokenizer.vocabSize, vocabSize) }, (_, id) =>
    // The library never allows a token without text, unless it ends the output.
    tokenizer.isSpecial(id) ? "" : [...tokenizer.tokenBytes(id)].map((byte) => BYTE_CHARS[byte]!).join(""),
  );
  return { vocab, vocabSize, stopTokens };
}
