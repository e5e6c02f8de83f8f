/**
 * How one sequence picks its tokens, with every default filled in.
 *
 * Built by `resolveSampling` in `engine/sampling-params.ts` from what a user wrote; inside the
 * program every field is present and already within range.
 */
export interface Sampling {
  /** At least 0; 0 is greedy. */
  readonly temperature: number;
  /** At least 0; 0 keeps every token. */
  readonly topK: number;
  /** Above 0, at most 1. */
  readonly topP: number;
  /** From 0 to 1: drops tokens below `minP` times the most likely one. */
  readonly minP: number;
  /** 64-bit seed; two sequences with one seed, prompt and adapter give the same tokens. */
  readonly seed: bigint;
  /** Above 0; 1 is off. Divides positive and multiplies negative logits of tokens seen in prompt or output. */
  readonly repetitionPenalty: number;
  /** From -2 to 2; taken off the logit of every token generated at least once. */
  readonly presencePenalty: number;
  /** From -2 to 2; taken off per time a token was generated. */
  readonly frequencyPenalty: number;
  /** Added to the logits of single tokens; `-Infinity` forbids one. */
  readonly logitBias: ReadonlyMap<number, number>;
  readonly maxTokens: number;
  /** Stop tokens are forbidden until this many tokens are out. */
  readonly minTokens: number;
  /** Tokens that end the sequence: the model's own unless `ignoreEos`, and the user's. */
  readonly stopTokenIds: ReadonlySet<number>;
  /** The part of `stopTokenIds` that the model brings, which leave no `stopReason`. */
  readonly eosTokenIds: ReadonlySet<number>;
  /** Strings that end the sequence. */
  readonly stop: readonly string[];
  readonly includeStop: boolean;
  readonly skipSpecialTokens: boolean;
  /** Most likely tokens reported per step, 0 to 20; `null` for no log-probabilities at all. */
  readonly logprobs: number | null;
  /** The same for each token of the prompt but the first; left out or `null` for none. */
  readonly promptLogprobs?: number | null;
}

/** Why an output is over. `shutdown`: the model was closed before it was. */
export type FinishReason = "stop" | "length" | "cancelled" | "timeout" | "shutdown" | "error";

/** One token as it leaves the sampler. */
export interface SampledToken {
  readonly id: number;
  /** Natural log-probability under the model's own distribution, before temperature and penalties. */
  readonly logprob: number;
  /** Position of the token in the sorted distribution, 1 for the most likely. */
  readonly rank: number;
  /** The most likely tokens, best first; empty unless asked for. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}
