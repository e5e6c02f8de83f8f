import type { Sampling } from "../../src/core/sampling.ts";

/** A greedy sampling record with every default, changed where a test needs it. */
export function greedy(change: Partial<Sampling> = {}): Sampling {
  return {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    seed: 1n,
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
    ...change,
  };
}
