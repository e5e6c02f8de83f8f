/** The tokens of a vocabulary by id: what they say, and which of them are special. */
import { type TokenText } from "./detokenizer.ts";
import type { TokenDecoder } from "./token-decoder.ts";

const NO_BYTES = new Uint8Array(0);
const wholeCharacters = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class TokenTable implements TokenText {
  readonly numTokens: number;
  readonly strip: TokenText["strip"];
  readonly #bytes: (Uint8Array | undefined)[];
  /** What `text` has been asked for, by id. */
  readonly #texts: (string | null | undefined)[];
  /** Only where it differs from `#bytes`. */
  readonly #firstBytes = new Map<number, Uint8Array>();
  /** Contents, which can differ from what the decoder makes of them. */
  readonly #special = new Map<number, Uint8Array>();
  readonly #idOf: ReadonlyMap<string, number>;

  /**
   * @param vocab entries as the model writes them
   * @param added by content; wins over `vocab` for the same id
   */
  constructor(
    vocab: ReadonlyMap<string, number>,
    added: readonly {
      readonly id: number;
      readonly content: string;
      readonly special: boolean;
    }[],
    decoder: TokenDecoder,
  ) {
    this.strip = decoder.strip;
    const idOf = new Map(vocab);
    let numTokens = 0;
    this.#bytes = [];
    const encoder = new TextEncoder();
    for (const [entry, id] of vocab) {
      numTokens = Math.max(numTokens, id + 1);
      this.#set(id, decoder.bytes(entry), decoder.firstBytes?.(entry));
    }
    for (const { id, content, special } of added) {
      numTokens = Math.max(numTokens, id + 1);
      idOf.set(content, id);
      const asIs = encoder.encode(content);
      if (special) this.#special.set(id, asIs);
      if (decoder.addedAsIs) this.#set(id, asIs, undefined);
      else this.#set(id, decoder.bytes(content), decoder.firstBytes?.(content));
    }
    this.#idOf = idOf;
    this.numTokens = numTokens;
    // Filled, lest an array with a few entries far apart be kept as a table of them.
    this.#texts = Array.from({ length: numTokens }, () => undefined);
  }

  #set(
    id: number,
    bytes: Uint8Array,
    firstBytes: Uint8Array | undefined,
  ): void {
    this.#bytes[id] = bytes;
    if (firstBytes === undefined) this.#firstBytes.delete(id);
    else this.#firstBytes.set(id, firstBytes);
  }

  /** Ids without a token, which padded output matrices can give, say nothing. */
  bytes(id: number): Uint8Array {
    return this.#bytes[id] ?? NO_BYTES;
  }

  text(id: number): string | null {
    if (id >= this.numTokens) return "";
    let text = this.#texts[id];
    if (text === undefined) this.#texts[id] = text = textOf(this.bytes(id));
    return text;
  }

  firstBytes(id: number): Uint8Array {
    return this.#firstBytes.get(id) ?? this.bytes(id);
  }

  /** `bytes`, but a special token's content as it is. */
  exactBytes(id: number): Uint8Array {
    return this.#special.get(id) ?? this.bytes(id);
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  idOf(content: string): number | undefined {
    return this.#idOf.get(content);
  }
}

function textOf(bytes: Uint8Array): string | null {
  try {
    return wholeCharacters.decode(bytes);
  } catch {
    return null;
  }
}
