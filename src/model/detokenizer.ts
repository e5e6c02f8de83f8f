/** Turns one sequence of tokens into text as they come. */
import type { Detokenizer } from "./tokenizer.ts";

/** What each token stands for in a text. */
export interface TokenText {
  /** Bytes of a token at the start of a text, which may lack the space that others begin with. */
  firstBytes(id: number): Uint8Array;
  bytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
  /** The characters to leave out at the very start of a text: this one, up to this many times. */
  readonly strip: { readonly char: string; readonly count: number };
}

export class StreamingDetokenizer implements Detokenizer {
  readonly #tokens: TokenText;
  readonly #skipSpecialTokens: boolean;
  // A byte-order mark is text here, wherever it stands.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #isFirst = true;
  #numToStrip: number;

  constructor(tokens: TokenText, skipSpecialTokens: boolean) {
    this.#tokens = tokens;
    this.#skipSpecialTokens = skipSpecialTokens;
    this.#numToStrip = tokens.strip.count;
  }

  push(id: number): string {
    if (this.#skipSpecialTokens && this.#tokens.isSpecial(id)) return "";
    const bytes = this.#isFirst
      ? this.#tokens.firstBytes(id)
      : this.#tokens.bytes(id);
    this.#isFirst = false;
    return this.#stripped(this.#decoder.decode(bytes, { stream: true }));
  }

  flush(): string {
    return this.#stripped(this.#decoder.decode());
  }

  #stripped(text: string): string {
    if (this.#numToStrip === 0 || text === "") return text;
    let at = 0;
    while (at < this.#numToStrip && text[at] === this.#tokens.strip.char) at++;
    this.#numToStrip = at === text.length ? this.#numToStrip - at : 0;
    return text.slice(at);
  }
}
