/** What a user may say about how tokens are picked. */

/** Every field may be left out; `null` counts as left out. */
export interface SamplingParams {
  /** At least 0; 0 is greedy. Greedy as well when temperature, topP and topK are all left out. */
  readonly temperature?: number | null;
  /** At least 0; 0 keeps every token, 1 is greedy. */
  readonly topK?: number | null;
  /** From 0 to 1; 0 is greedy. */
  readonly topP?: number | null;
  /** From 0 to 1. */
  readonly minP?: number | null;
  /** Any 64-bit integer; random when left out. Choice `i` of `n` uses `seed + i`. */
  readonly seed?: number | bigint | null;
  /** From 0.01 to 100; 1 is off. Counts prompt and output. */
  readonly repetitionPenalty?: number | null;
  /** From -2 to 2, taken off the logit of every token that the output has. */
  readonly presencePenalty?: number | null;
  /** From -2 to 2, taken off per time that the output has the token. */
  readonly frequencyPenalty?: number | null;
  /** Up to 4 strings of 1 to 128 characters. */
  readonly stop?: string | readonly string[] | null;
  /** Up to 64 ids. */
  readonly stopTokenIds?: readonly number[] | null;
  /** At least 1. What does not fit the context is left off in a program, refused in a request to a server. */
  readonly maxTokens?: number | null;
  /** Stop tokens and strings are ignored until then; at most `maxTokens`. */
  readonly minTokens?: number | null;
  /** Outputs per prompt, 1 to 8. */
  readonly n?: number | null;
  /** Outputs generated per prompt, `n` to 8, of which the `n` likeliest are given; not for greedy sampling above 1. */
  readonly bestOf?: number | null;
  /** Alternatives reported per token, 0 to 20. */
  readonly logprobs?: number | null;
  /** The same for each token of the prompt but the first. */
  readonly promptLogprobs?: number | null;
  /** Goes on beyond the model's own end tokens, up to `maxTokens`; default false. */
  readonly ignoreEos?: boolean | null;
  /** Up to 300 token ids with what is added to their logits. */
  readonly logitBias?: Readonly<Record<string, number>> | null;
  /** Keeps the stop string that ended the output in its text; default false. */
  readonly includeStopStrInOutput?: boolean | null;
  /** Leaves special tokens out of the text; default true. */
  readonly skipSpecialTokens?: boolean | null;
}
