/** What only the HTTP layer sees: when a client's tokens leave, and who waits for which adapter. */
import type { Clock } from "../../core/clock.ts";
import type { GenerationEvent } from "../../core/request.ts";
import { Histogram } from "./histogram.ts";

const FIRST_TOKEN_S = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const NEXT_TOKEN_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5];
const WHOLE_REQUEST_S = [0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480];

export class RequestMetrics {
  readonly firstToken = new Histogram(FIRST_TOKEN_S);
  readonly nextToken = new Histogram(NEXT_TOKEN_S);
  readonly wholeRequest = new Histogram(WHOLE_REQUEST_S);
  /** Live sequences per adapter that have, and have not, got a token yet. */
  readonly running = new Map<string, number>();
  readonly waiting = new Map<string, number>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Starts to time one sequence. */
  track(adapterName: string | null): TrackedSequence {
    return new TrackedSequence(this, this.#clock, adapterName);
  }
}

export class TrackedSequence {
  readonly #metrics: RequestMetrics;
  readonly #clock: Clock;
  readonly #adapterName: string | null;
  readonly #startMs: number;
  #lastTokenMs: number | null = null;
  #isOver = false;

  constructor(metrics: RequestMetrics, clock: Clock, adapterName: string | null) {
    this.#metrics = metrics;
    this.#clock = clock;
    this.#adapterName = adapterName;
    this.#startMs = clock.nowMs();
    this.#count(metrics.waiting, 1);
  }

  see({ tokens, finish }: GenerationEvent): void {
    if (this.#isOver) return;
    const nowMs = this.#clock.nowMs();
    if (tokens.length > 0) this.#seeTokens(tokens.length, nowMs);
    if (finish === null) return;
    this.#metrics.wholeRequest.observe((nowMs - this.#startMs) / 1000);
    this.end();
  }

  /** The client left, or the sequence is over. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#count(this.#lastTokenMs === null ? this.#metrics.waiting : this.#metrics.running, -1);
  }

  #seeTokens(numTokens: number, nowMs: number): void {
    if (this.#lastTokenMs === null) {
      this.#metrics.firstToken.observe((nowMs - this.#startMs) / 1000);
      this.#count(this.#metrics.waiting, -1);
      this.#count(this.#metrics.running, 1);
    } else {
      // Tokens that came together share the time since the last piece.
      this.#metrics.nextToken.observe((nowMs - this.#lastTokenMs) / 1000 / numTokens, numTokens);
    }
    this.#lastTokenMs = nowMs;
  }

  #count(counts: Map<string, number>, change: number): void {
    if (this.#adapterName === null) return;
    const count = (counts.get(this.#adapterName) ?? 0) + change;
    if (count === 0) counts.delete(this.#adapterName);
    else counts.set(this.#adapterName, count);
  }
}
