/** Single tokens as text, bytes and offsets, for log-probabilities. */
import type { Tokenizer } from "../../model/tokenizer.ts";

export interface TokenForm {
  /** Unique per token even where its bytes are no text: `bytes:\xe2\x82`, as OpenAI writes it. */
  readonly text: string;
  readonly bytes: readonly number[] | null;
}

/** @param asIds write `token_id:17` instead of text, as a model without a tokenizer always does */
export function tokenForm(tokenizer: Tokenizer | null, id: number, asIds: boolean): TokenForm {
  // A model may have rows for more tokens than its tokenizer knows.
  if (tokenizer === null || id >= tokenizer.vocabSize) return { text: `token_id:${id}`, bytes: null };
  const bytes = tokenizer.tokenBytes(id);
  return { text: asIds ? `token_id:${id}` : textOf(bytes), bytes: [...bytes] };
}

function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return `bytes:${[...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

/** Where each token's text begins, in code points from the start of the output. */
export class OffsetCounter {
  readonly #tokenizer: Tokenizer | null;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder = new TextDecoder();
  #offset = 0;

  constructor(tokenizer: Tokenizer | null, skipSpecialTokens: boolean) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = skipSpecialTokens;
  }

  /** @returns the offset of this token */
  push(id: number): number {
    const offset = this.#offset;
    const isText =
      this.#tokenizer !== null &&
      id < this.#tokenizer.vocabSize &&
      !(this.#skipSpecialTokens && this.#tokenizer.isSpecial(id));
    if (isText) {
      for (const _ of this.#decoder.decode(this.#tokenizer!.tokenBytes(id), { stream: true })) this.#offset++;
    }
    return offset;
  }
}
