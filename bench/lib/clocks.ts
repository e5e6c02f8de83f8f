/** Linux's clocks by `clock_gettime`: Bun's own count from the start of the process, and wall time counts a neighbour's turns as well. */
import { dlopen } from "bun:ffi";

const MONOTONIC = 1;
const THREAD_CPU = 3;

/** Time that the calling thread spent on a core. @returns a clock in milliseconds; wall time on systems other than Linux */
export const threadClock = (): (() => number) => clock(THREAD_CPU, () => performance.now());

/** The same in every process of the machine. @returns a clock in milliseconds; wall time on systems other than Linux */
export const machineClock = (): (() => number) => clock(MONOTONIC, () => performance.timeOrigin + performance.now());

function clock(id: number, fallback: () => number): () => number {
  if (process.platform !== "linux") return fallback;
  const { symbols } = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
  const time = new BigInt64Array(2);
  return () => {
    symbols.clock_gettime(id, time);
    return Number(time[0]) * 1e3 + Number(time[1]) / 1e6;
  };
}
