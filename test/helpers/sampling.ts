import type { Sampling } from "../../src/core/sampling.ts";

/** Greedy, 16 tokens, no stop conditions. */
export const samplingWith = (changes: Partial<Sampling> = {}): Sampling => ({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  seed: 0n,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: new Map(),
  maxTokens: 16,
  minTokens: 0,
  stopTokenIds: new Set(),
  eosTokenIds: new Set(),
  stop: [],
  includeStop: false,
  skipSpecialTokens: true,
  logprobs: null,
  ...changes,
});
