/** The generations behind one HTTP answer, from their start to their last event. */
import { type LorikeetError, toLorikeetError } from "../core/errors.ts";
import type { Finish, GenerationEvent, RequestTiming } from "../core/request.ts";
import type { Generation } from "../runtime/runtime.ts";
import { failureOf } from "./failed-finish.ts";
import { type ChoiceEvent, MergedEvents } from "./merged-events.ts";
import type { RequestMetrics, TrackedSequence } from "./metrics/request-metrics.ts";
import type { AnswerFormat, AnswerUsage } from "./openai/answer-format.ts";
import type { AnswerRecord } from "./telemetry/answer-record.ts";

export interface AnswerOptions {
  readonly generations: readonly Generation[];
  readonly format: AnswerFormat;
  /** Of all prompts, each counted once however many choices it has. */
  readonly promptTokens: number;
  /** Generations of each prompt, which are neighbours. */
  readonly numGenerated: number;
  readonly metrics: RequestMetrics;
  /** What clients are told of an error that ended a generation. */
  readonly toRequestError: (thrown: unknown) => LorikeetError;
  /** Told of every error that ends a generation. */
  readonly onFailure: (thrown: unknown) => void;
  /** Told once how it ended. */
  readonly onEnd: (end: AnswerEnd) => void;
  /** Whether the client asked where the time went. */
  readonly withTimeline: boolean;
}

export type AnswerEnd = Pick<AnswerRecord, "usage" | "finishes" | "error">;

export class Answer {
  readonly generations: readonly Generation[];
  readonly format: AnswerFormat;
  readonly #events: MergedEvents;
  readonly #tracked: readonly TrackedSequence[];
  readonly #promptTokens: number;
  readonly #numGenerated: number;
  readonly #toRequestError: (thrown: unknown) => LorikeetError;
  readonly #onFailure: (thrown: unknown) => void;
  readonly #onEnd: (end: AnswerEnd) => void;
  readonly #withTimeline: boolean;
  readonly #completionTokens: number[];
  readonly #finishes: (Finish | null)[];
  #isOver = false;

  constructor({ generations, format, promptTokens, numGenerated, metrics, toRequestError, onFailure, onEnd, withTimeline }: AnswerOptions) {
    this.generations = generations;
    this.format = format;
    this.#events = new MergedEvents(generations);
    this.#tracked = generations.map(() => metrics.track());
    this.#completionTokens = generations.map(() => 0);
    this.#promptTokens = promptTokens;
    this.#numGenerated = numGenerated;
    this.#toRequestError = toRequestError;
    this.#onFailure = onFailure;
    this.#onEnd = onEnd;
    this.#withTimeline = withTimeline;
    this.#finishes = generations.map(() => null);
  }

  /** So far. */
  get usage(): AnswerUsage {
    return {
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens.reduce((sum, count) => sum + count, 0),
      ...this.#cached(),
      ...(this.#withTimeline ? { timings: this.timings } : {}),
    };
  }

  /** Of the first choice of each prompt, once all of these have ended: others may have found what that one had computed. */
  #cached(): { readonly cachedTokens?: number } {
    let cachedTokens = 0;
    for (let i = 0; i < this.#finishes.length; i += this.#numGenerated) {
      const found = this.#finishes[i]?.usage.cachedTokens;
      if (found === undefined) return {};
      cachedTokens += found;
    }
    return { cachedTokens };
  }

  /** Of the choices that have ended. */
  get timings(): RequestTiming[] {
    return this.#finishes.flatMap((finish) => (finish === null ? [] : [finish.timing]));
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
      if (!this.#isOver) this.#onFailure(thrown);
      this.#end(toLorikeetError(thrown).errorCode);
      this.cancel();
      throw this.#toRequestError(thrown);
    }
  }

  /** Nobody reads it any more: ends every generation. Idempotent. */
  cancel(): void {
    this.#end("client_left");
    for (const generation of this.generations) generation.cancel();
  }

  #see(choice: number, event: GenerationEvent): void {
    this.#tracked[choice]!.see(event);
    const counted = this.#completionTokens[choice]! + event.tokens.length;
    this.#completionTokens[choice] = event.finish?.usage.completionTokens ?? counted;
    if (event.finish === null) return;
    this.#finishes[choice] = event.finish;
    const failure = failureOf(event.finish);
    if (failure !== null) throw failure;
    if (!this.#finishes.includes(null)) this.#end(null);
  }

  #end(error: AnswerEnd["error"]): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onEnd({ usage: this.usage, finishes: this.#finishes, error });
  }
}
