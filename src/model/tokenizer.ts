/** Text to token ids and back. */
export interface Tokenizer {
  /** Ids run from 0 to below this. */
  readonly vocabSize: number;
  encode(text: string, options?: EncodeOptions): number[];
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** The exact bytes of one token; special tokens give their content. */
  tokenBytes(id: number): Uint8Array;
  isSpecial(id: number): boolean;
  /** Id of a token by its exact content, e.g. `<|eot_id|>`. */
  tokenId(content: string): number | undefined;
  /** A stateful decoder for one sequence. */
  detokenizer(options?: { readonly skipSpecialTokens?: boolean }): Detokenizer;
}

export interface EncodeOptions {
  /** Let the post-processor add begin and end tokens; default true. */
  readonly addSpecialTokens?: boolean;
  /** Turn special tokens written in the text into their ids; default true. */
  readonly parseSpecial?: boolean;
  /**
   * One character that is no text: a special token with it inside is plain text, and it is then left out.
   * For callers that know which parts of a text must not act as special tokens.
   */
  readonly mark?: string;
}

/** Emits only whole code points: a character split over tokens appears with its last token. */
export interface Detokenizer {
  /** @returns the text that became certain with this token; may be empty */
  push(id: number): string;
  /** @returns what is left, broken bytes as U+FFFD */
  flush(): string;
}
