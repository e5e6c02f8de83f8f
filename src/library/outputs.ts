/** What generation returns: TensorRT-LLM's records in camelCase, with `.text` as a short cut. */
import type { LorikeetError } from "../core/errors.ts";
import type { Finish, GenerationEvent } from "../core/request.ts";
import type { FinishReason, SampledToken } from "../core/sampling.ts";

export interface Logprob {
  readonly logprob: number;
  /** 1 for the most likely token. */
  readonly rank: number;
}

/** One sequence's output so far. */
export class CompletionOutput {
  index: number;
  text = "";
  /** Text that the newest event added. */
  textDiff = "";
  readonly tokenIds: number[] = [];
  /** Sum of the tokens' log-probabilities; `null` unless log-probabilities were asked for. */
  cumulativeLogprob: number | null = null;
  /** Per token: the alternatives asked for and the token itself; `null` unless asked for. */
  logprobs: ReadonlyMap<number, Logprob>[] | null = null;
  finishReason: FinishReason | null = null;
  stopReason: string | number | null = null;
  error: LorikeetError | null = null;

  constructor(index: number, withLogprobs: boolean) {
    this.index = index;
    if (withLogprobs) {
      this.logprobs = [];
      this.cumulativeLogprob = 0;
    }
  }

  get length(): number {
    return this.tokenIds.length;
  }

  /** Adds what one event brought. */
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
  readonly requestId: string;
  /** `null` when the prompt was given as token ids or messages. */
  readonly prompt: string | null;
  readonly promptTokenIds: readonly number[];
  readonly outputs: readonly [CompletionOutput, ...CompletionOutput[]];
  /** Per token of the prompt: the alternatives asked for and the token itself, `null` for the first; `null` unless asked for. */
  promptLogprobs: readonly (ReadonlyMap<number, Logprob> | null)[] | null = null;

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

  get finished(): boolean {
    return this.outputs.every((output) => output.finishReason !== null);
  }
}
