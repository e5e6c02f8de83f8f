/** Counts of observations per bucket, in Prometheus' terms. */
export class Histogram {
  /** Upper bounds, growing; one more bucket holds the rest. */
  readonly bounds: readonly number[];
  readonly #counts: Float64Array;
  #sum = 0;
  #count = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
  }

  /** Counts `value` once, or `times` times. */
  observe(value: number, times = 1): void {
    let bucket = 0;
    while (bucket < this.bounds.length && value > this.bounds[bucket]!) bucket++;
    this.#counts[bucket] = this.#counts[bucket]! + times;
    this.#sum += value * times;
    this.#count += times;
  }

  get sum(): number {
    return this.#sum;
  }

  get count(): number {
    return this.#count;
  }

  /** Observations at or below each bound. */
  cumulative(): number[] {
    let total = 0;
    return this.bounds.map((_, i) => (total += this.#counts[i]!));
  }
}
