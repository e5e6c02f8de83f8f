/** Turns one sequence of tokens into text as they come. */
import type { Detokenizer } from "./tokenizer.ts";

/** What each token stands for in a text. */
export interface TokenText {
  /** Bytes of a token at the start of a text, which may lack the space that others begin with. */
  firstBytes(id: number): Uint8Array;
  bytes(id: number): Uint8Array;
  /** The text of those bytes; `null` where they are not whole characters. */
  text(id: number): string | null;
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
  /** Whether the decoder may hold the beginning of a character. */
  #isOpen = false;
  #numToStrip: number;

  constructor(tokens: TokenText, skipSpecialTokens: boolean) {
    this.#tokens = tokens;
    this.#skipSpecialTokens = skipSpecialTokens;
    this.#numToStrip = tokens.strip.count;
  }

  push(id: number): string {
    if (this.#skipSpecialTokens && this.#tokens.isSpecial(id)) return "";
    if (this.#isFirst) {
      this.#isFirst = false;
      this.#isOpen = true;
      return this.#decode(this.#tokens.firstBytes(id));
    }
    const text = this.#tokens.text(id);
    if (text === "") return "";
    // Nearly every token is whole characters, whose text is known; what the decoder holds has to come out before.
    if (text !== null && !this.#isOpen) return this.#stripped(text);
    this.#isOpen = text === null;
    return this.#decode(this.#tokens.bytes(id));
  }

  flush(): string {
    return this.#stripped(this.#decoder.decode());
  }

  #decode(bytes: Uint8Array): string {
    return this.#stripped(this.#decoder.decode(bytes, { stream: true }));
  }

  #stripped(text: string): string {
    if (this.#numToStrip === 0 || text === "") return text;
    let at = 0;
    while (at < this.#numToStrip && text[at] === this.#tokens.strip.char) at++;
    this.#numToStrip = at === text.length ? this.#numToStrip - at : 0;
    return text.slice(at);
  }
}
