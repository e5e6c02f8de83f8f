/**
 * Prompt tokens of a conversation, in which only the template can write special tokens.
 *
 * A special token in a message would end that message and begin another in anyone's name. Whoever writes one
 * gets it as text: before rendering, a mark that is no character goes into it, which keeps the tokenizer from
 * taking it as one and is then dropped. Templates see such text with a mark, and all other text as it is.
 */
import { RequestError } from "../core/errors.ts";
import type { ChatInput, ChatTemplate } from "./chat-template.ts";
import { codePointTrie, type Trie } from "./trie.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Noncharacters first, which no text has; then private use, which few texts have. */
const MARKS: readonly (readonly [first: number, last: number])[] = [
  [0xfdd0, 0xfdef],
  [0xe000, 0xf8ff],
];

/**
 * @throws {RequestError} `invalid_request` when the template refuses the conversation
 */
export function encodeChat(
  tokenizer: Tokenizer,
  template: ChatTemplate,
  input: ChatInput,
): number[] {
  const specials = specialsOf(tokenizer);
  const plain = { addSpecialTokens: false, parseSpecial: true };
  const texts: string[] = [];
  let needsMarks = false;
  mapTexts(input, (text, place) => {
    texts.push(text);
    needsMarks ||= specials.mark(text, place, "\0") !== text;
    return text;
  });
  if (!needsMarks) return tokenizer.encode(template.render(input), plain);
  const mark = unusedMark(texts);
  const marked = mapTexts(input, (text, place) =>
    specials.mark(text, place, mark),
  ) as ChatInput;
  return tokenizer.encode(template.render(marked), { ...plain, mark });
}

/** Free text can meet other text in a prompt; words are what templates compare and build special tokens from. */
type Place = "text" | "word";
type MapText = (text: string, place: Place) => string;

/** A copy of JSON-like data with every string in it, keys too, replaced. */
function mapTexts(
  value: unknown,
  map: MapText,
  place: Place = "text",
): unknown {
  if (typeof value === "string") return map(value, place);
  if (Array.isArray(value))
    return value.map((item: unknown) => mapTexts(item, map, place));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [
      map(key, "word"),
      mapTexts(item, map, key === "role" ? "word" : "text"),
    ]),
  );
}

function unusedMark(texts: readonly string[]): string {
  const used = new Set(
    texts.flatMap((text) => text.match(/[\ue000-\uf8ff\ufdd0-\ufdef]/g) ?? []),
  );
  for (const [first, last] of MARKS) {
    for (let code = first; code <= last; code++) {
      const mark = String.fromCharCode(code);
      if (!used.has(mark)) return mark;
    }
  }
  throw new RequestError(
    "invalid_request",
    "messages must leave one private-use character unused when they contain special tokens of the model; remove either",
    { field: "messages" },
  );
}

const specialsByTokenizer = new WeakMap<Tokenizer, SpecialTexts>();

function specialsOf(tokenizer: Tokenizer): SpecialTexts {
  let specials = specialsByTokenizer.get(tokenizer);
  if (specials === undefined) {
    specials = new SpecialTexts(tokenizer);
    specialsByTokenizer.set(tokenizer, specials);
  }
  return specials;
}

/** What special tokens look like in text, whole and in part. */
class SpecialTexts {
  readonly #whole: Trie<true>;
  readonly #starts = new Set<string>();
  readonly #ends = new Set<string>();
  #maxLength = 0;

  constructor(tokenizer: Tokenizer) {
    const decoder = new TextDecoder();
    const contents: string[] = [];
    for (let id = 0; id < tokenizer.vocabSize; id++) {
      if (tokenizer.isSpecial(id))
        contents.push(decoder.decode(tokenizer.tokenBytes(id)));
    }
    for (const content of contents) {
      this.#maxLength = Math.max(this.#maxLength, content.length);
      for (let cut = 1; cut < content.length; cut++) {
        if (hasSign(content.slice(0, cut)))
          this.#starts.add(content.slice(0, cut));
        if (hasSign(content.slice(cut))) this.#ends.add(content.slice(cut));
      }
    }
    this.#whole = codePointTrie(contents.map((content) => [content, true]));
  }

  /**
   * Puts the mark into every special token. Free text also gets it at its ends where it ends like the start of
   * a special token or begins like the rest of one, which two texts side by side could make whole. White space
   * around the text stays outside, where templates trim it.
   */
  mark(text: string, place: Place, mark: string): string {
    let marked = this.#markWhole(text, mark);
    const core = text.trim();
    if (place === "word" || core === "") return marked;
    if (
      this.#someCut(core, (length) => this.#starts.has(core.slice(-length)))
    ) {
      const end = marked.trimEnd();
      marked = end + mark + marked.slice(end.length);
    }
    if (
      this.#someCut(core, (length) => this.#ends.has(core.slice(0, length)))
    ) {
      const start = marked.length - marked.trimStart().length;
      marked = marked.slice(0, start) + mark + marked.slice(start);
    }
    return marked;
  }

  #someCut(core: string, holds: (length: number) => boolean): boolean {
    const maxLength = Math.min(core.length, this.#maxLength);
    for (let length = 1; length <= maxLength; length++) {
      if (holds(length)) return true;
    }
    return false;
  }

  #markWhole(text: string, mark: string): string {
    let marked = "";
    let from = 0;
    for (let at = 0; ;) {
      const match = this.#whole.findLongest(text, at);
      if (match === undefined) return marked + text.slice(from);
      // One may begin inside another, so the search goes on behind its first character.
      at = match.start + 1;
      marked += text.slice(from, at) + mark;
      from = at;
    }
  }
}

/** Whether a part of a special token can be told from a word that any text may begin or end with. */
function hasSign(part: string): boolean {
  return /[^\p{L}\p{N}\s]/u.test(part);
}
