/**
 * The way from the engine to whoever reads one sequence: pull based, bounded, one reader.
 *
 * The engine never waits for a reader. Pieces that meet no waiting reader are merged into one event, so a
 * slow reader gets fewer and larger events; past the caps the stream is full and its sequence is cancelled.
 */
import { InvariantError } from "./errors.ts";
import type { Finish, GenerationEvent } from "./request.ts";
import type { SampledToken } from "./sampling.ts";

export interface TokenStreamLimits {
  /** Most unread tokens, each alternative of a token counting as one more; at least 1. */
  readonly maxUnreadTokens: number;
  /** Most unread UTF-16 units of text; at least 1. */
  readonly maxUnreadChars: number;
}

export const defaultStreamLimits: TokenStreamLimits = {
  maxUnreadTokens: 65_536,
  maxUnreadChars: 262_144,
};

type ReadResult = IteratorResult<GenerationEvent, undefined>;
const END: ReadResult = { done: true, value: undefined };

export class TokenStream implements AsyncIterable<GenerationEvent> {
  readonly #limits: TokenStreamLimits;
  readonly #onAbandon: () => void;
  readonly #soon: (wake: () => void) => void;
  #text = "";
  #tokens: SampledToken[] = [];
  #prompt: SampledToken[] | null = null;
  #numUnread = 0;
  #finish: Finish | null = null;
  /** `finished`: the last piece is in; `ended`: it was read, or the reader left. */
  #state: "open" | "finished" | "ended" = "open";
  #waiting: ((result: ReadResult) => void) | null = null;
  #isTaken = false;
  #isWaking = false;
  /** One for all wake-ups: there is one a token. */
  readonly #wakeNow = (): void => {
    this.#isWaking = false;
    this.#wake();
  };

  /**
   * @param onAbandon called once when the reader leaves before it has read the finish
   * @param soon runs what wakes a reader that waits for more; at once when left out. The finish wakes it at once in any case
   */
  constructor(onAbandon: () => void, limits: TokenStreamLimits = defaultStreamLimits, soon: (wake: () => void) => void = (wake) => wake()) {
    this.#onAbandon = onAbandon;
    this.#limits = limits;
    this.#soon = soon;
  }

  /**
   * Adds text and tokens.
   *
   * @returns false when the unread part is over a cap: only the finish should follow
   */
  push(text: string, tokens: readonly SampledToken[]): boolean {
    if (this.#state !== "open") return true;
    this.#keep(text, tokens);
    this.#wakeSoon();
    return (
      this.#numUnread <= this.#limits.maxUnreadTokens &&
      this.#text.length <= this.#limits.maxUnreadChars
    );
  }

  /** Adds how likely tokens of the prompt were, which go with the first text; bounded by the context, so no cap counts them. */
  keepPrompt(tokens: readonly SampledToken[]): void {
    this.#prompt ??= [];
    for (const token of tokens) this.#prompt.push(token);
  }

  /** Adds the last piece; later calls change nothing. */
  end(text: string, tokens: readonly SampledToken[], finish: Finish): void {
    if (this.#state !== "open") return;
    this.#keep(text, tokens);
    this.#finish = finish;
    this.#state = "finished";
    this.#wake();
  }

  [Symbol.asyncIterator](): AsyncIterator<GenerationEvent, undefined> {
    if (this.#isTaken) throw new InvariantError("a generation has one reader only");
    this.#isTaken = true;
    return { next: () => this.#next(), return: () => this.#leave() };
  }

  #keep(text: string, tokens: readonly SampledToken[]): void {
    this.#text += text;
    for (const token of tokens) {
      this.#tokens.push(token);
      this.#numUnread += 1 + token.top.length;
    }
  }

  #wakeSoon(): void {
    if (this.#waiting === null || this.#isWaking) return;
    this.#isWaking = true;
    this.#soon(this.#wakeNow);
  }

  #wake(): void {
    if (this.#waiting === null || this.#isEmpty()) return;
    const wake = this.#waiting;
    this.#waiting = null;
    wake(this.#take());
  }

  #isEmpty(): boolean {
    return this.#tokens.length === 0 && this.#text === "" && this.#finish === null;
  }

  #take(): ReadResult {
    const piece = { text: this.#text, tokens: this.#tokens, finish: this.#finish };
    const value: GenerationEvent = this.#prompt === null ? piece : { ...piece, prompt: this.#prompt };
    this.#prompt = null;
    this.#text = "";
    this.#tokens = [];
    this.#numUnread = 0;
    if (this.#finish !== null) this.#state = "ended";
    return { done: false, value };
  }

  #next(): Promise<ReadResult> {
    if (this.#state === "ended") return Promise.resolve(END);
    if (this.#waiting !== null) {
      return Promise.reject(new InvariantError("a generation is read one event at a time"));
    }
    if (!this.#isEmpty()) return Promise.resolve(this.#take());
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  #leave(): Promise<ReadResult> {
    if (this.#state !== "ended") {
      this.#state = "ended";
      this.#text = "";
      this.#tokens = [];
      this.#waiting?.(END);
      this.#waiting = null;
      this.#onAbandon();
    }
    return Promise.resolve(END);
  }
}
