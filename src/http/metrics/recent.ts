/** The latest observations of one kind, for a page that shows what happens now. */
export interface RecentQuantiles {
  /** Observations in the window; of a busy server, as many as are kept. */
  readonly count: number;
  readonly p50: number;
  readonly p95: number;
}

export class RecentValues {
  readonly #values: Float64Array;
  readonly #times: Float64Array;
  #numSeen = 0;

  /** @param capacity observations kept, at least 1 */
  constructor(capacity = 1024) {
    this.#values = new Float64Array(capacity);
    this.#times = new Float64Array(capacity);
  }

  observe(value: number, nowMs: number): void {
    const at = this.#numSeen++ % this.#values.length;
    this.#values[at] = value;
    this.#times[at] = nowMs;
  }

  /** @returns `null` where nothing was observed within `windowMs` */
  quantiles(nowMs: number, windowMs: number): RecentQuantiles | null {
    const numKept = Math.min(this.#numSeen, this.#values.length);
    const within = this.#values.subarray(0, numKept).filter((_, i) => nowMs - this.#times[i]! <= windowMs).sort();
    if (within.length === 0) return null;
    const at = (part: number): number => within[Math.min(within.length - 1, Math.floor(part * within.length))]!;
    return { count: within.length, p50: at(0.5), p95: at(0.95) };
  }
}
