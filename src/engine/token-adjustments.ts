/** Which logits of one sequence change before a token is picked, kept up to date token by token. */
import type { Sampling } from "../core/sampling.ts";
import type { TokenAdjustment } from "../core/step.ts";

/** Whether any logit of a sequence is ever changed; of most none is. */
export const changesLogits = ({ logitBias, minTokens, repetitionPenalty, presencePenalty, frequencyPenalty }: Sampling): boolean =>
  logitBias.size > 0 || minTokens > 0 || repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;

interface Entry {
  readonly token: number;
  generatedCount: number;
  seen: boolean;
  bias: number;
}

/**
 * Bias, penalties and the tokens forbidden until `minTokens` are out.
 *
 * Presence and frequency penalties count generated tokens; the repetition penalty also those of the prompt.
 * Tokens are counted only for sequences that have a penalty.
 */
export class TokenAdjustments {
  readonly #sampling: Sampling;
  readonly #entries: Entry[] = [];
  readonly #byToken = new Map<number, Entry>();
  readonly #countsTokens: boolean;
  #numGenerated = 0;

  constructor(sampling: Sampling, promptTokens: readonly number[]) {
    this.#sampling = sampling;
    const repeats = sampling.repetitionPenalty !== 1;
    this.#countsTokens =
      repeats || sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
    for (const [token, bias] of sampling.logitBias) this.#entry(token).bias = bias;
    if (sampling.minTokens > 0) {
      for (const token of sampling.stopTokenIds) this.#entry(token).bias = -Infinity;
    }
    if (repeats) {
      for (const token of promptTokens) this.#entry(token).seen = true;
    }
  }

  /** The same array every time, changed in place. */
  get entries(): readonly TokenAdjustment[] {
    return this.#entries;
  }

  /** Whether further tokens change nothing. */
  get areSettled(): boolean {
    return !this.#countsTokens && this.#numGenerated >= this.#sampling.minTokens;
  }

  /** Notes that a token was generated. */
  count(token: number): void {
    this.#numGenerated++;
    if (this.#numGenerated === this.#sampling.minTokens) this.#allowStopTokens();
    if (!this.#countsTokens) return;
    const entry = this.#entry(token);
    entry.generatedCount++;
    entry.seen = true;
  }

  #allowStopTokens(): void {
    const { stopTokenIds, logitBias } = this.#sampling;
    for (const token of stopTokenIds) this.#entry(token).bias = logitBias.get(token) ?? 0;
  }

  #entry(token: number): Entry {
    const existing = this.#byToken.get(token);
    if (existing !== undefined) return existing;
    const entry: Entry = { token, generatedCount: 0, seen: false, bias: 0 };
    this.#byToken.set(token, entry);
    this.#entries.push(entry);
    return entry;
  }
}
