/** Finds the tokens that are taken out of a text before anything else happens to it. */
import { codePointTrie, type Trie } from "./trie.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  /** Looked for in normalized text instead of the text as it came. */
  readonly normalized: boolean;
  /** Only where no word character touches it. */
  readonly singleWord: boolean;
  /** Takes the white space before it along. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** A token id, or text between tokens. */
export type Section = number | string;

const ENDS_IN_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const SPACE = /\p{White_Space}/u;

/** Added tokens that are looked for together. */
export class AddedTokenSplitter {
  readonly #all: Finder;
  readonly #plain: Finder;

  /** @param contentOf what to look for, such as the normalized content */
  constructor(
    tokens: readonly AddedToken[],
    contentOf: (token: AddedToken) => string,
  ) {
    this.#all = new Finder(tokens, contentOf);
    this.#plain = new Finder(
      tokens.filter((token) => !token.special),
      contentOf,
    );
  }

  /** @param parseSpecial false: special tokens are text like any other */
  split(text: string, parseSpecial: boolean): readonly Section[] {
    return (parseSpecial ? this.#all : this.#plain).split(text);
  }
}

class Finder {
  readonly #trie: Trie<AddedToken>;

  constructor(
    tokens: readonly AddedToken[],
    contentOf: (token: AddedToken) => string,
  ) {
    this.#trie = codePointTrie(
      tokens.map((token) => [contentOf(token), token]),
    );
  }

  split(text: string): readonly Section[] {
    const sections: Section[] = [];
    let from = 0;
    for (let at = 0; ;) {
      const match = this.#trie.findLongest(text, at);
      if (match === undefined) break;
      at = match.end;
      const { value: token } = match;
      if (token.singleWord && touchesWord(text, match.start, match.end))
        continue;
      // The token before may have taken the same white space already.
      const start = token.lstrip
        ? Math.max(from, skipSpaceBack(text, match.start))
        : match.start;
      if (start > from) sections.push(text.slice(from, start));
      sections.push(token.id);
      from = token.rstrip ? skipSpace(text, match.end) : match.end;
    }
    if (from < text.length) sections.push(text.slice(from));
    return sections;
  }
}

function touchesWord(text: string, start: number, end: number): boolean {
  // Two code units hold any one character.
  return (
    ENDS_IN_WORD.test(text.slice(Math.max(0, start - 2), start)) ||
    STARTS_WITH_WORD.test(text.slice(end, end + 2))
  );
}

function skipSpaceBack(text: string, from: number): number {
  let at = from;
  while (at > 0 && SPACE.test(text[at - 1]!)) at--;
  return at;
}

function skipSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length && SPACE.test(text[at]!)) at++;
  return at;
}
