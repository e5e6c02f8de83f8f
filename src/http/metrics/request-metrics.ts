/** What requests got: when a client's tokens left, and where the time went. */
import type { Clock } from "../../core/clock.ts";
import type { Finish, GenerationEvent } from "../../core/request.ts";
import { Histogram } from "./histogram.ts";
import { RecentValues } from "./recent.ts";

const FIRST_TOKEN_S = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
const NEXT_TOKEN_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5];
const PHASE_S = [0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480];
const TOKENS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000];

export class RequestMetrics {
  readonly firstToken = new Histogram(FIRST_TOKEN_S);
  readonly nextToken = new Histogram(NEXT_TOKEN_S);
  readonly wholeRequest = new Histogram(PHASE_S);
  readonly queue = new Histogram(PHASE_S);
  readonly adapterWait = new Histogram(PHASE_S);
  readonly prefill = new Histogram(PHASE_S);
  readonly decode = new Histogram(PHASE_S);
  readonly promptTokens = new Histogram(TOKENS);
  readonly generatedTokens = new Histogram(TOKENS);
  /** Seconds, as in the histograms. */
  readonly recentFirstToken = new RecentValues();
  readonly recentNextToken = new RecentValues();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Starts to time one sequence. */
  track(): TrackedSequence {
    return new TrackedSequence(this, this.#clock);
  }
}

export class TrackedSequence {
  readonly #metrics: RequestMetrics;
  readonly #clock: Clock;
  readonly #startMs: number;
  #lastTokenMs: number | null = null;

  constructor(metrics: RequestMetrics, clock: Clock) {
    this.#metrics = metrics;
    this.#clock = clock;
    this.#startMs = clock.nowMs();
  }

  see({ tokens, finish }: GenerationEvent): void {
    const nowMs = this.#clock.nowMs();
    if (tokens.length > 0) this.#seeTokens(tokens.length, nowMs);
    if (finish !== null) this.#seeFinish(finish, nowMs);
  }

  #seeTokens(numTokens: number, nowMs: number): void {
    if (this.#lastTokenMs === null) {
      const seconds = (nowMs - this.#startMs) / 1000;
      this.#metrics.firstToken.observe(seconds);
      this.#metrics.recentFirstToken.observe(seconds, nowMs);
    } else {
      // Tokens that came together share the time since the last piece.
      const seconds = (nowMs - this.#lastTokenMs) / 1000 / numTokens;
      this.#metrics.nextToken.observe(seconds, numTokens);
      this.#metrics.recentNextToken.observe(seconds, nowMs);
    }
    this.#lastTokenMs = nowMs;
  }

  #seeFinish({ usage, timing }: Finish, nowMs: number): void {
    const metrics = this.#metrics;
    metrics.wholeRequest.observe((nowMs - this.#startMs) / 1000);
    metrics.queue.observe(timing.queueMs / 1000);
    metrics.adapterWait.observe(timing.adapterMs / 1000);
    metrics.prefill.observe(timing.prefillMs / 1000);
    metrics.decode.observe(timing.decodeMs / 1000);
    metrics.promptTokens.observe(usage.promptTokens);
    metrics.generatedTokens.observe(usage.completionTokens);
  }
}
