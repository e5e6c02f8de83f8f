/** One thread of the linear bench: reads memory or multiplies matrices when told to, and times itself. */
import { dlopen } from "bun:ffi";
import { parentPort } from "node:worker_threads";
import { instantiate, type WasmExports } from "../../src/backend/wasm/module.ts";
import { threadClock } from "../lib/clocks.ts";

export interface LinearExports extends WasmExports {
  activation_pack(format: number, packed: number, x: number, ldx: number, rows: number, k: number, tile0: number, tile1: number): void;
  linear_panels(op: number, panel0: number, panel1: number, scratch: number): void;
}

/** Bytes of a `linear_t`, padded to a cache line. */
export const OP_BYTES = 64;

export const WORK = { read: 0, linear: 1 } as const;

/** Words of the control block; those that threads write lie on cache lines of their own. */
export const WORD = { go: 0, work: 1, threads: 2, passes: 3, at: 4, count: 5, panels: 6, arrived: 16, done: 32, times: 48 } as const;
export const CONTROL_WORDS = 64;

export interface Task {
  readonly linear: WebAssembly.Module;
  readonly read: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
  readonly control: number;
  readonly stackTop: number;
  readonly scratch: number;
}

/**
 * Keeps this thread on one core and returns its clock: milliseconds it ran there. Both matter. Threads that wake
 * together share a core for tens of milliseconds before the system moves one away, and wall time counts a
 * neighbour's turns.
 */
function ownCore(thread: number): () => number {
  if (process.platform !== "linux") return () => performance.now();
  const { symbols } = dlopen("libc.so.6", {
    sched_setaffinity: { args: ["i32", "u64", "ptr"], returns: "i32" },
  });
  const mask = new BigUint64Array(16);
  mask[thread >> 6] = 1n << BigInt(thread & 63);
  if (symbols.sched_setaffinity(0, BigInt(mask.byteLength), mask) !== 0) throw new Error(`no core ${thread} for thread ${thread}`);
  return threadClock();
}

function serve(task: Task): void {
  const { memory, thread, scratch } = task;
  const linear = instantiate(task.linear, memory, task.stackTop) as LinearExports;
  const read = new WebAssembly.Instance(task.read, { env: { memory } }).exports.read as (at: number, end: number) => number;
  const words = new Int32Array(memory.buffer, task.control, CONTROL_WORDS);
  /** Per thread: milliseconds on a core, milliseconds on the wall. */
  const times = new Float64Array(memory.buffer, task.control + WORD.times * 4, 4);
  const onCore = ownCore(thread);

  const run = (): void => {
    const [threads, passes, panels] = [words[WORD.threads]!, words[WORD.passes]!, words[WORD.panels]!];
    const [at, count] = [words[WORD.at]! >>> 0, words[WORD.count]! >>> 0];
    if (words[WORD.work] === WORK.read) {
      const share = Math.floor(count / threads / 64) * 64;
      for (let pass = 0; pass < passes; pass++) read(at + thread * share, at + (thread + 1) * share);
      return;
    }
    const [first, last] = [Math.floor((panels * thread) / threads), Math.floor((panels * (thread + 1)) / threads)];
    for (let pass = 0; pass < passes; pass++) {
      for (let i = 0; i < count; i++) linear.linear_panels(at + i * OP_BYTES, first, last, scratch);
    }
  };

  for (let seen = 0; ; ) {
    Atomics.wait(words, WORD.go, seen);
    seen = Atomics.load(words, WORD.go);
    const threads = words[WORD.threads]!;
    if (thread >= threads) continue;
    // Nobody begins before all are awake: otherwise the first would have the memory to itself.
    Atomics.add(words, WORD.arrived, 1);
    while (Atomics.load(words, WORD.arrived) < threads);
    const [core, wall] = [onCore(), performance.now()];
    run();
    times.set([onCore() - core, performance.now() - wall], thread * 2);
    if (Atomics.add(words, WORD.done, 1) + 1 === threads) Atomics.notify(words, WORD.done);
  }
}

parentPort?.once("message", (task: Task) => {
  parentPort?.postMessage("ready");
  serve(task);
});
