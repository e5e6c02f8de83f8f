/** What generation returns: TensorRT-LLM's records in camelCase, with `.text` as a short cut. */
import type { LorikeetError } from "../core/errors.ts";
import type { Finish, GenerationEvent } from "../core/request.ts";
import type { FinishReason, SampledToken } from "../core/sampling.ts";

/** What the model thought of one token at one place. */
export interface Logprob {
  /** Natural log-probability, before temperature and penalties. */
  readonly logprob: number;
  /** 1 for the most likely token. */
  readonly rank: number;
}

/** One sequence's output so far. */
export class CompletionOutput {
  /** Which of the prompt's outputs it is, from 0. */
  index: number;
  /** All text so far. */
  text = "";
  /** Text that the newest event added. */
  textDiff = "";
  /** All tokens so far, the one that ended the output among them. */
  readonly tokenIds: number[] = [];
  /** Sum of the tokens' log-probabilities; `null` unless log-probabilities were asked for. */
  cumulativeLogprob: number | null = null;
  /** Per token: the alternatives asked for and the token itself; `null` unless asked for. */
  logprobs: ReadonlyMap<number, Logprob>[] | null = null;
  /** `null` until the output is over. */
  finishReason: FinishReason | null = null;
  /** The stop string or token of the request that ended the output; `null` for the model's own end. */
  stopReason: string | number | null = null;
  /** Why, where `finishReason` is `error`. */
  error: LorikeetError | null = null;

  /** @hidden */
  constructor(index: number, withLogprobs: boolean) {
    this.index = index;
    if (withLogprobs) {
      this.logprobs = [];
      this.cumulativeLogprob = 0;
    }
  }

  /** Number of tokens so far. */
  get length(): number {
    return this.tokenIds.length;
  }

  /** @hidden Adds what one event brought. */
  apply({ text, tokens, finish }: GenerationEvent): void {
    this.textDiff = text;
    this.text += text;
    for (const token of tokens) {
      this.tokenIds.push(token.id);
      this.logprobs?.push(alternatives(token));
      if (this.cumulativeLogprob !== null) this.cumulativeLogprob += token.logprob;
    }
    if (finish !== null) this.#finish(finish);
  }

  #finish({ reason, stopReason, error }: Finish): void {
    this.finishReason = reason;
    this.stopReason = stopReason;
    this.error = error;
  }
}

/** Of tokens of the prompt, from the second on. */
export const promptLogprobsOf = (tokens: readonly SampledToken[]): RequestOutput["promptLogprobs"] => [null, ...tokens.map(alternatives)];

function alternatives(token: SampledToken): ReadonlyMap<number, Logprob> {
  const map = new Map(token.top.map(({ id, logprob }, i) => [id, { logprob, rank: i + 1 }]));
  if (!map.has(token.id)) map.set(token.id, { logprob: token.logprob, rank: token.rank });
  return map;
}

/** One prompt and its `n` outputs. */
export class RequestOutput {
  /** Made here; in logs and events it is the first output's. */
  readonly requestId: string;
  /** `null` when the prompt was given as token ids or messages. */
  readonly prompt: string | null;
  /** The prompt as the model reads it. */
  readonly promptTokenIds: readonly number[];
  /** `n` of them, at least one. */
  readonly outputs: readonly [CompletionOutput, ...CompletionOutput[]];
  /** Per token of the prompt: the alternatives asked for and the token itself, `null` for the first; `null` unless asked for. */
  promptLogprobs: readonly (ReadonlyMap<number, Logprob> | null)[] | null = null;

  /** @hidden */
  constructor(
    requestId: string,
    prompt: string | null,
    promptTokenIds: readonly number[],
    outputs: readonly [CompletionOutput, ...CompletionOutput[]],
  ) {
    this.requestId = requestId;
    this.prompt = prompt;
    this.promptTokenIds = promptTokenIds;
    this.outputs = outputs;
  }

  /** Text of the first output. */
  get text(): string {
    return this.outputs[0].text;
  }

  /** Whether all outputs are over. */
  get finished(): boolean {
    return this.outputs.every((output) => output.finishReason !== null);
  }
}
