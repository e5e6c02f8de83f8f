/** The generations behind one HTTP answer, from their start to their last event. */
import type { LorikeetError } from "../core/errors.ts";
import type { GenerationEvent, Usage } from "../core/request.ts";
import type { Generation } from "../runtime/runtime.ts";
import { failureOf } from "./failed-finish.ts";
import { type ChoiceEvent, MergedEvents } from "./merged-events.ts";
import type { RequestMetrics, TrackedSequence } from "./metrics/request-metrics.ts";
import type { AnswerFormat } from "./openai/answer-format.ts";

export interface AnswerOptions {
  readonly generations: readonly Generation[];
  readonly format: AnswerFormat;
  /** Of all prompts, each counted once however many choices it has. */
  readonly promptTokens: number;
  readonly metrics: RequestMetrics;
  /** What clients are told of an error that ended a generation. */
  readonly toRequestError: (thrown: unknown) => LorikeetError;
  /** Told of every error that ends a generation. */
  readonly onFailure: (thrown: unknown) => void;
}

export class Answer {
  readonly generations: readonly Generation[];
  readonly format: AnswerFormat;
  readonly #events: MergedEvents;
  readonly #tracked: readonly TrackedSequence[];
  readonly #promptTokens: number;
  readonly #toRequestError: (thrown: unknown) => LorikeetError;
  readonly #onFailure: (thrown: unknown) => void;
  readonly #completionTokens: number[];
  #isCancelled = false;

  constructor({ generations, format, promptTokens, metrics, toRequestError, onFailure }: AnswerOptions) {
    this.generations = generations;
    this.format = format;
    this.#events = new MergedEvents(generations);
    this.#tracked = generations.map(() => metrics.track());
    this.#completionTokens = generations.map(() => 0);
    this.#promptTokens = promptTokens;
    this.#toRequestError = toRequestError;
    this.#onFailure = onFailure;
  }

  /** So far. */
  get usage(): Usage {
    return { promptTokens: this.#promptTokens, completionTokens: this.#completionTokens.reduce((sum, count) => sum + count, 0) };
  }

  /**
   * @returns an empty list after the last event
   * @throws {LorikeetError} when a generation ended without being an answer; the others are cancelled then
   */
  async next(): Promise<readonly ChoiceEvent[]> {
    try {
      const events = await this.#events.next();
      for (const { choice, event } of events) this.#see(choice, event);
      return events;
    } catch (thrown) {
      if (!this.#isCancelled) this.#onFailure(thrown);
      this.cancel();
      throw this.#toRequestError(thrown);
    }
  }

  /** Ends every generation. Idempotent. */
  cancel(): void {
    this.#isCancelled = true;
    for (const generation of this.generations) generation.cancel();
  }

  #see(choice: number, event: GenerationEvent): void {
    this.#tracked[choice]!.see(event);
    const counted = this.#completionTokens[choice]! + event.tokens.length;
    this.#completionTokens[choice] = event.finish?.usage.completionTokens ?? counted;
    const failure = event.finish === null ? null : failureOf(event.finish);
    if (failure !== null) throw failure;
  }
}
