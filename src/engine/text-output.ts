/** What becomes of one sequence's tokens: text, stop conditions, and the stream to its reader. */
import type { GrammarCursor } from "../core/grammar.ts";
import type { Finish } from "../core/request.ts";
import type { SampledToken, Sampling } from "../core/sampling.ts";
import type { TokenAdjustment } from "../core/step.ts";
import type { TokenStream } from "../core/token-stream.ts";
import type { Detokenizer, Tokenizer } from "../model/tokenizer.ts";
import type { Ending, SequenceOutput } from "../schedule/sequence.ts";
import { StopMatcher } from "./stop-matcher.ts";
import { changesLogits, TokenAdjustments } from "./token-adjustments.ts";

export interface TextOutputInput {
  readonly sampling: Sampling;
  readonly promptTokens: readonly number[];
  /** `null`: tokens only, all text stays empty. */
  readonly tokenizer: Tokenizer | null;
  readonly stream: TokenStream;
  /** Where in its grammar the output is; the sequence's own from here on. */
  readonly grammar?: GrammarCursor | null;
}

const NO_ADJUSTMENTS: readonly TokenAdjustment[] = [];

export class TextOutput implements SequenceOutput {
  readonly #sampling: Sampling;
  readonly #stream: TokenStream;
  readonly #adjustments: TokenAdjustments | null;
  readonly #detokenizer: Detokenizer | null;
  readonly #matcher: StopMatcher | null;
  readonly #grammar: GrammarCursor | null;
  #numGenerated = 0;
  /** The last token and its text, which leave together with the finish. */
  #lastText = "";
  #lastTokens: SampledToken[] = [];
  #stopFound = false;

  constructor({ sampling, promptTokens, tokenizer, stream, grammar = null }: TextOutputInput) {
    this.#sampling = sampling;
    this.#stream = stream;
    this.#grammar = grammar;
    this.#adjustments = changesLogits(sampling) ? new TokenAdjustments(sampling, promptTokens) : null;
    this.#detokenizer =
      tokenizer?.detokenizer({ skipSpecialTokens: sampling.skipSpecialTokens }) ?? null;
    this.#matcher =
      sampling.stop.length > 0 ? new StopMatcher(sampling.stop, sampling.includeStop) : null;
  }

  adjustments(): readonly TokenAdjustment[] {
    return this.#adjustments?.entries ?? NO_ADJUSTMENTS;
  }

  get isReady(): boolean {
    return this.#grammar?.isReady ?? true;
  }

  /** A bias alone stays as it is. */
  get needsTokens(): boolean {
    return this.#grammar !== null || this.#adjustments?.areSettled === false;
  }

  get allowed(): Int32Array | null {
    return this.#grammar?.allowed ?? null;
  }

  accept(token: SampledToken): Ending | null {
    const lost = this.#grammar?.failure ?? null;
    if (lost !== null) return { reason: "error", stopReason: null, error: lost };
    const { stopTokenIds, eosTokenIds, includeStop, minTokens, maxTokens } = this.#sampling;
    this.#numGenerated++;
    this.#adjustments?.count(token.id);

    let ending: Ending | null = null;
    let text = "";
    if (stopTokenIds.has(token.id)) {
      const stopReason = eosTokenIds.has(token.id) ? null : token.id;
      ending = { reason: "stop", stopReason, error: null };
      if (includeStop) {
        text = (this.#matcher?.flush() ?? "") + (this.#detokenizer?.push(token.id) ?? "");
      }
    } else {
      text = this.#detokenizer?.push(token.id) ?? "";
      if (this.#matcher !== null && this.#numGenerated >= minTokens) {
        const match = this.#matcher.push(text);
        text = match.text;
        if (match.stop !== null) {
          this.#stopFound = true;
          ending = { reason: "stop", stopReason: match.stop, error: null };
        }
      }
    }
    if (ending === null && this.#numGenerated >= maxTokens) {
      ending = { reason: "length", stopReason: null, error: null };
    }
    if (ending !== null) {
      this.#lastText = text;
      this.#lastTokens = [token];
      return ending;
    }
    this.#grammar?.accept(token.id);
    const hasRoom = this.#stream.push(text, [token]);
    return hasRoom ? null : { reason: "cancelled", stopReason: null, error: null };
  }

  score(tokens: readonly SampledToken[]): void {
    this.#stream.keepPrompt(tokens);
  }

  finish(finish: Finish): void {
    this.#grammar?.end();
    this.#stream.end(this.#tail(), this.#lastTokens, finish);
  }

  /** Everything still to say, in order: held back text, the last token's, an incomplete character. */
  #tail(): string {
    if (this.#stopFound) return this.#lastText;
    const rest = this.#detokenizer?.flush() ?? "";
    if (this.#matcher === null) return this.#lastText + rest;
    return this.#lastText + this.#matcher.flush() + rest;
  }
}
