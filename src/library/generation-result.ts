/** One prompt under way: awaitable for the whole, iterable for its pieces. */
import { toLorikeetError } from "../core/errors.ts";
import type { Generation } from "../runtime/runtime.ts";
import { CompletionOutput, promptLogprobsOf, RequestOutput } from "./outputs.ts";

/** @internal */
export interface StartedPrompt {
  readonly prompt: string | null;
  readonly tokens: readonly number[];
  /** One per output. */
  readonly generations: readonly Generation[];
  /** Outputs given: all of them, or the likeliest once all have ended. */
  readonly numWanted: number;
  readonly withLogprobs: boolean;
}

/** What `generateAsync` gives: await it for the whole output, or iterate it for every piece. */
export class GenerationResult implements PromiseLike<RequestOutput>, AsyncIterable<RequestOutput> {
  readonly #started: Promise<StartedPrompt>;
  #whole: Promise<RequestOutput> | undefined;

  /** @internal */
  constructor(start: () => Promise<StartedPrompt>, signal?: AbortSignal) {
    this.#started = start();
    // Every reader of the result gets the failure; nobody reading is not a crash.
    this.#started.catch(() => undefined);
    if (signal?.aborted === true) this.abort();
    else signal?.addEventListener("abort", () => this.abort(), { once: true });
  }

  /** Ends all outputs of this prompt with `cancelled`. */
  abort(): void {
    void this.#started.then(({ generations }) => generations.forEach((generation) => generation.cancel()));
  }

  /** For `await`: the output once it is over. @throws {LorikeetError} what kept the prompt from being answered */
  // oxlint-disable-next-line unicorn/no-thenable -- awaiting the result is the point, as in TensorRT-LLM's API
  then<A = RequestOutput, B = never>(
    onfulfilled?: ((value: RequestOutput) => A | PromiseLike<A>) | null,
    onrejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.#whole ??= this.#collect();
    return this.#whole.then(onfulfilled, onrejected);
  }

  async #collect(): Promise<RequestOutput> {
    let last: RequestOutput | undefined;
    for await (const output of this) last = output;
    return last!;
  }

  /**
   * The same `RequestOutput` after every event, grown by it; `textDiff` is what is new.
   *
   * With `bestOf` above `n` there is one output only, at the end. Events of several outputs arrive in the order they
   * happen. Leaving the loop early cancels the rest.
   */
  async *[Symbol.asyncIterator](): AsyncIterator<RequestOutput> {
    const { prompt, tokens, generations, numWanted, withLogprobs } = await this.#started;
    const picksBest = numWanted < generations.length;
    const [first, ...others] = generations.map((_, i) => new CompletionOutput(i, withLogprobs || picksBest));
    const outputs = [first!, ...others] as const;
    const request = new RequestOutput(generations[0]!.id, prompt, tokens, [...outputs]);
    const iterators = generations.map((generation) => generation[Symbol.asyncIterator]());
    const next = (i: number) => iterators[i]!.next().then((result) => ({ i, result }));
    const pending = new Map(iterators.map((_, i) => [i, next(i)]));
    try {
      while (pending.size > 0) {
        const { i, result } = await Promise.race(pending.values());
        if (result.done === true) {
          pending.delete(i);
          continue;
        }
        pending.set(i, next(i));
        for (const output of outputs) output.textDiff = "";
        outputs[i]!.apply(result.value);
        if (result.value.prompt !== undefined) request.promptLogprobs ??= promptLogprobsOf(result.value.prompt);
        if (!picksBest) yield request;
      }
      if (!picksBest) return;
      const best = new RequestOutput(request.requestId, prompt, tokens, likeliest(outputs, numWanted, withLogprobs));
      best.promptLogprobs = request.promptLogprobs;
      yield best;
    } catch (thrown) {
      throw toLorikeetError(thrown);
    } finally {
      for (const generation of generations) generation.cancel();
    }
  }
}

function likeliest(outputs: readonly CompletionOutput[], numWanted: number, withLogprobs: boolean): [CompletionOutput, ...CompletionOutput[]] {
  const sorted = outputs.toSorted((a, b) => b.cumulativeLogprob! - a.cumulativeLogprob!).slice(0, numWanted);
  for (const [index, output] of sorted.entries()) {
    output.index = index;
    if (!withLogprobs) output.logprobs = null;
  }
  return [sorted[0]!, ...sorted.slice(1)];
}
