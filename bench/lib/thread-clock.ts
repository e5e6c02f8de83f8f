/** Time that the calling thread spent on a core: wall time counts a neighbour's turns as well. */
import { dlopen } from "bun:ffi";

/** Linux's CLOCK_THREAD_CPUTIME_ID. */
const THREAD_CPU_CLOCK = 3;

/** @returns the thread's clock in milliseconds; wall time on systems other than Linux */
export function threadClock(): () => number {
  if (process.platform !== "linux") return () => performance.now();
  const { symbols } = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
  const time = new BigInt64Array(2);
  return () => {
    symbols.clock_gettime(THREAD_CPU_CLOCK, time);
    return Number(time[0]) * 1e3 + Number(time[1]) / 1e6;
  };
}
