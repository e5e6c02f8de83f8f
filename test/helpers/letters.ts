/** A tokenizer of single bytes: id 65 is "A"; ids from 256 on are special. */
import type { Detokenizer, Tokenizer } from "../../src/model/tokenizer.ts";

const SPECIAL_FROM = 256;

const special = (id: number) => `<${id}>`;

class ByteDetokenizer implements Detokenizer {
  readonly #decoder = new TextDecoder();
  readonly #skipsSpecial: boolean;

  constructor(skipsSpecial: boolean) {
    this.#skipsSpecial = skipsSpecial;
  }

  push(id: number): string {
    if (id >= SPECIAL_FROM) return this.#skipsSpecial ? "" : special(id);
    return this.#decoder.decode(Uint8Array.of(id), { stream: true });
  }

  flush(): string {
    return this.#decoder.decode();
  }
}

export const letters: Tokenizer = {
  vocabSize: 300,
  encode: (text) => [...new TextEncoder().encode(text)],
  decode: (ids) => new TextDecoder().decode(Uint8Array.from(ids)),
  tokenBytes: (id) =>
    id < SPECIAL_FROM ? Uint8Array.of(id) : new TextEncoder().encode(special(id)),
  isSpecial: (id) => id >= SPECIAL_FROM,
  tokenId: () => undefined,
  detokenizer: (options) => new ByteDetokenizer(options?.skipSpecialTokens ?? true),
};
