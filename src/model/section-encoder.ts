/** The part of a tokenizer between its added tokens: plain text to token ids. */
export interface SectionEncoder {
  normalize(text: string): string;
  /**
   * Appends the ids of one normalised stretch of text without added tokens.
   *
   * @param isFirst whether the stretch begins the whole text
   */
  encode(text: string, isFirst: boolean, out: number[]): void;
}
