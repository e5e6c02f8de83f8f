/**
 * Order statistics by trtllm-bench's definition, so that reports can be compared: of `n` values in ascending
 * order, percentile `p` is the one at index `floor(n * p / 100)`, the last at most. No interpolation.
 */
export interface Percentiles {
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
  readonly minimum: number;
  readonly maximum: number;
  readonly average: number;
}

/** @returns `null` for no values */
export function percentilesOf(values: readonly number[]): Percentiles | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const at = (p: number): number => sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * p) / 100))]!;
  return { p50: at(50), p90: at(90), p95: at(95), p99: at(99), minimum: sorted[0]!, maximum: sorted.at(-1)!, average: mean(values) };
}

export const mean = (values: readonly number[]): number => (values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length);

/** Of lists too long to be arguments. */
export const least = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b), Infinity);
export const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), -Infinity);
