/** When requests are sent, whatever became of those before: an open loop. */
import type { Random } from "./random.ts";

export interface Arrivals {
  /** Mean requests per second; infinite for all at once. */
  readonly rate: number;
  /** Deviation of the gaps over their mean: 1 is a Poisson process, 0 an even beat, more comes in bursts. */
  readonly cv: number;
}

/** @returns milliseconds from the start, ascending; the gaps are gamma distributed, as S-LoRA's */
export function arrivalTimes({ rate, cv }: Arrivals, count: number, random: Random): number[] {
  if (rate === Infinity) return Array.from({ length: count }, () => 0);
  const gap = (): number => (cv === 0 ? 1000 / rate : random.gamma(1 / cv ** 2, (1000 * cv ** 2) / rate));
  let atMs = 0;
  return Array.from({ length: count }, () => (atMs += gap()));
}
