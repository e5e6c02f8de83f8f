/** A tokenizer from the parts that a tokenizer.json describes. */
import { type AddedToken, AddedTokenSplitter } from "./added-tokens.ts";
import { StreamingDetokenizer } from "./detokenizer.ts";
import type { Surroundings } from "./post-processor.ts";
import type { SectionEncoder } from "./section-encoder.ts";
import type { TokenTable } from "./token-table.ts";
import type { Detokenizer, EncodeOptions, Tokenizer } from "./tokenizer.ts";

export interface JsonTokenizerParts {
  readonly table: TokenTable;
  readonly added: readonly AddedToken[];
  readonly encoder: SectionEncoder;
  readonly surroundings: Surroundings;
}

export class JsonTokenizer implements Tokenizer {
  readonly #parts: JsonTokenizerParts;
  readonly #splitRaw: AddedTokenSplitter;
  readonly #splitNormalized: AddedTokenSplitter;

  constructor(parts: JsonTokenizerParts) {
    const { added, encoder } = parts;
    this.#parts = parts;
    this.#splitRaw = new AddedTokenSplitter(
      added.filter((token) => !token.normalized),
      (token) => token.content,
    );
    this.#splitNormalized = new AddedTokenSplitter(
      added.filter((token) => token.normalized),
      (token) => encoder.normalize(token.content),
    );
  }

  get vocabSize(): number {
    return this.#parts.table.numTokens;
  }

  encode(
    text: string,
    { addSpecialTokens = true, parseSpecial = true, mark }: EncodeOptions = {},
  ): number[] {
    const { encoder, surroundings } = this.#parts;
    const ids = addSpecialTokens ? [...surroundings.before] : [];
    let isFirst = true;
    for (const section of this.#splitRaw.split(
      text.toWellFormed(),
      parseSpecial,
    )) {
      if (typeof section === "number") {
        ids.push(section);
      } else {
        const normalized = encoder.normalize(section);
        for (const piece of this.#splitNormalized.split(
          normalized,
          parseSpecial,
        )) {
          if (typeof piece === "number") ids.push(piece);
          else
            encoder.encode(
              mark === undefined ? piece : piece.replaceAll(mark, ""),
              isFirst,
              ids,
            );
          isFirst = false;
        }
      }
      isFirst = false;
    }
    if (addSpecialTokens) ids.push(...surroundings.after);
    return ids;
  }

  decode(
    ids: readonly number[],
    options?: { readonly skipSpecialTokens?: boolean },
  ): string {
    const detokenizer = this.detokenizer(options);
    let text = "";
    for (const id of ids) text += detokenizer.push(id);
    return text + detokenizer.flush();
  }

  tokenBytes(id: number): Uint8Array {
    return this.#parts.table.exactBytes(id);
  }

  isSpecial(id: number): boolean {
    return this.#parts.table.isSpecial(id);
  }

  tokenId(content: string): number | undefined {
    return this.#parts.table.idOf(content);
  }

  detokenizer({ skipSpecialTokens = false } = {}): Detokenizer {
    return new StreamingDetokenizer(this.#parts.table, skipSpecialTokens);
  }
}
