/**
 * The panel kernels one by one, against a plain SIMD read loop over the very bytes they read.
 *
 *   bun bench/kernels/wasm-linear.ts [--only SECTION] [--wasm FILE] [--json FILE]
 *
 * Sections: stream (one row, weights from memory), batch (eight rows against one), prefill (arithmetic) and
 * lora (small matrices from the cache). Kernel and read loop alternate on the same threads; shares and
 * ratios are taken within a repetition, and their median is shown. Activations are packed ahead.
 *
 * Times are each thread's time on its core, the slower thread's counting. `busy` is that time against the wall.
 * Below BUSY_ENOUGH the threads did not run side by side, so nothing is said of the target.
 */
import { Worker } from "node:worker_threads";
import { DTYPE, FORMAT, PANEL_ROWS } from "../../src/backend/wasm/formats.ts";
import { compileModule, createMemory, instantiate, RESERVED_BYTES, STACK_BYTES } from "../../src/backend/wasm/module.ts";
import { oneOf, parseFlags } from "../lib/flags.ts";
import { readModule } from "../../src/backend/wasm/read-loop.ts";
import { mapSpread, Neighbours, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";
import { CONTROL_WORDS, type LinearExports, OP_BYTES, type Task, WORD, WORK } from "./linear-worker.ts";

type Format = keyof typeof FORMAT;

const REPEATS = 5;
const SAMPLE_MS = 60;
const MAX_THREADS = 2;
const BUSY_ENOUGH = 0.9;
/** Several times the last cache level of the machines this runs on. */
const STREAM_BYTES = 256 << 20;
const SECTIONS = ["stream", "batch", "prefill", "lora"] as const;

const flags = parseFlags({ only: undefined, wasm: undefined, json: undefined });
const only = flags.only === undefined ? undefined : oneOf("only", flags.only, SECTIONS);
const wanted = (section: (typeof SECTIONS)[number]): boolean => only === undefined || only === section;

const memory = createMemory(STREAM_BYTES + (160 << 20));
const module = flags.wasm === undefined ? await compileModule() : await WebAssembly.compile(await Bun.file(flags.wasm).arrayBuffer());
let next = RESERVED_BYTES;
const place = (numBytes: number): number => {
  const at = next;
  next += Math.ceil(numBytes / 64) * 64;
  return at;
};
const floatsAt = (at: number, length: number): Float32Array => new Float32Array(memory.buffer, at, length);

const wasm = instantiate(module, memory, place(STACK_BYTES) + STACK_BYTES) as LinearExports;
const control = place(CONTROL_WORDS * 4);
const words = new Int32Array(memory.buffer, control, CONTROL_WORDS);
const times = new Float64Array(memory.buffer, control + WORD.times * 4, 2 * MAX_THREADS);
const read = new WebAssembly.Module(readModule());
const workers = await Promise.all(
  Array.from({ length: MAX_THREADS }, async (_, thread) => {
    const worker = new Worker(new URL("./linear-worker.ts", import.meta.url));
    const ready = new Promise((resolve) => worker.once("message", resolve));
    const task: Task = {
      linear: module,
      read,
      memory,
      thread,
      control,
      stackTop: place(STACK_BYTES) + STACK_BYTES,
      scratch: place(wasm.linear_scratch_bytes()),
    };
    worker.postMessage(task);
    await ready;
    return worker;
  }),
);
const heap = next;

/** Shares of wall time on a core, of every run since they were last taken. */
let shares: number[] = [];
const takeBusy = (): Spread => {
  const busy = spreadOf(shares);
  shares = [];
  return busy;
};

/** Time of the slowest thread over all passes. */
function run(work: number, threads: number, passes: number, at: number, count: number, panels: number): number {
  Atomics.store(words, WORD.arrived, 0);
  Atomics.store(words, WORD.done, 0);
  words.set([work, threads, passes, at, count, panels], WORD.work);
  Atomics.add(words, WORD.go, 1);
  Atomics.notify(words, WORD.go);
  for (let done = 0; (done = Atomics.load(words, WORD.done)) < threads; ) Atomics.wait(words, WORD.done, done);
  const each = Array.from({ length: threads }, (_, i) => ({ core: times[2 * i]!, wall: times[2 * i + 1]! }));
  shares.push(Math.min(...each.map(({ core, wall }) => core / wall)));
  return Math.max(...each.map(({ core }) => core));
}

/** Seeded numbers of the size of trained weights or of normed activations: never zeros, never denormal. */
function draw(length: number, size: number): Float32Array {
  let state = 0x9e3779b9;
  return Float32Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state / 2 ** 31) * size;
  });
}

interface Matrices {
  readonly format: Format;
  readonly n: number;
  readonly k: number;
  readonly count: number;
  readonly at: number;
  readonly numBytes: number;
}

/** As many equal shapes side by side as fill `numBytes`. */
function pack(format: Format, n: number, k: number, numBytes: number): Matrices {
  next = heap;
  const each = Math.ceil((wasm.matrix_bytes(FORMAT[format], n, k) >>> 0) / 64) * 64;
  const count = Math.max(1, Math.floor(numBytes / each));
  const at = place(count * each);
  const block = Math.min(n, 256);
  const source = place(block * k * 4);
  floatsAt(source, block * k).set(draw(block * k, 0.05));
  new Uint8Array(memory.buffer, at, each).fill(0);
  for (let row = 0; row < n; row += block) {
    wasm.panel_pack(FORMAT[format], at, n, k, row, source, DTYPE.F32, Math.min(block, n - row));
  }
  const bytes = new Uint8Array(memory.buffer);
  for (let i = 1; i < count; i++) bytes.copyWithin(at + i * each, at, at + each);
  return { format, n, k, count, at, numBytes: count * each };
}

interface Product {
  /** Per pass over all matrices. */
  readonly milliseconds: (threads: number, passes: number) => number;
  readonly passes: number;
}

/** `rows` rows times every matrix in turn. */
function product(matrices: Matrices, rows: number, add = false): Product {
  const { format, n, k, count, at, numBytes } = matrices;
  const id = FORMAT[format];
  const x = place(rows * k * 4);
  floatsAt(x, rows * k).set(draw(rows * k, 1));
  const packed = place(wasm.activation_bytes(id, rows, k));
  wasm.activation_pack(id, packed, x, k, rows, k, 0, Math.ceil(rows / 4));
  const y = place(rows * n * 4);
  floatsAt(y, rows * n).fill(0);
  const ops = place(count * OP_BYTES);
  for (let i = 0; i < count; i++) {
    const op = ops + i * OP_BYTES;
    new Uint32Array(memory.buffer, op, 10).set([id, n, k, rows, at + (i * numBytes) / count, packed, 0, y, n, add ? 1 : 0]);
    // Small and of one sign of x: millions of additions stay finite.
    floatsAt(op, 11)[10] = add ? 1e-6 : 1;
  }
  const panels = Math.ceil(n / PANEL_ROWS);
  const time = (threads: number, passes: number): number => run(WORK.linear, threads, passes, ops, count, panels) / passes;
  // Long enough for the last compiler tier, then to size the samples.
  for (let spent = 0; spent < 4 * SAMPLE_MS; ) spent += time(1, 1);
  return { milliseconds: time, passes: Math.max(1, Math.round(SAMPLE_MS / time(1, 3))) };
}

const repeated = <T>(sample: () => T): T[] => {
  shares = [];
  return Array.from({ length: REPEATS }, sample);
};
const flops = ({ n, k, count }: Matrices, rows: number): number => 2 * n * k * count * rows;
const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;
const between = ({ min, max }: Spread, show: (value: number) => string): string => `${show(min)}..${show(max)}`;
const ofTarget = (value: Spread, target: number | null, busy: Spread): string => {
  if (target === null) return "-";
  return busy.median < BUSY_ENOUGH ? "disturbed" : (value.median / target).toFixed(2);
};
const results: Record<string, unknown[]> = {};
const neighbours = new Neighbours();

const STREAM_TARGET: Partial<Record<Format, number>> = { bfloat16: 0.75, int8: 0.65 };
const BATCH_TARGET = { bfloat16: 1.75, int8: 2 } as const;
const PREFILL_TARGET = { bfloat16: 32, int8: 55 } as const;

if (wanted("stream")) {
  const rows: string[][] = [];
  for (const format of ["bfloat16", "int8", "float32"] as const) {
    for (const [n, k] of [[16384, 4096], [49152, 576], [1536, 576], [576, 1536], [576, 576]] as const) {
      const matrices = pack(format, n, k, STREAM_BYTES);
      const { milliseconds: kernel, passes } = product(matrices, 1);
      for (const threads of [1, 2]) {
        const samples = repeated(() => {
          const loop = run(WORK.read, threads, passes, matrices.at, matrices.numBytes, 0) / passes;
          return { loop, kernel: kernel(threads, passes) };
        });
        const gigabytes = mapSpread(spreadOf(samples.map((sample) => sample.kernel)), (ms) => matrices.numBytes / ms / 1e6);
        const loop = mapSpread(spreadOf(samples.map((sample) => sample.loop)), (ms) => matrices.numBytes / ms / 1e6);
        const share = spreadOf(samples.map((sample) => sample.loop / sample.kernel));
        const target = STREAM_TARGET[format] ?? null;
        const busy = takeBusy();
        (results.stream ??= []).push({ format, n, k, threads, matrices: matrices.count, gigabytes, loop, share, busy, target });
        rows.push([
          `${format} ${n}x${k} ${threads}T`, gigabytes.median.toFixed(1), loop.median.toFixed(1), percent(share.median),
          between(share, percent), percent(busy.median), ofTarget(share, target, busy),
        ]);
      }
    }
  }
  printTable(["one row, from memory", "GB/s", "read GB/s", "share", "spread", "busy", "of target"], rows);
}

if (wanted("batch")) {
  const rows: string[][] = [];
  for (const format of ["bfloat16", "int8"] as const) {
    for (const [n, k] of [[49152, 576], [1536, 576], [576, 1536]] as const) {
      const matrices = pack(format, n, k, STREAM_BYTES);
      const one = product(matrices, 1);
      const more = [2, 3, 4, 5, 8, 16].map((count) => ({ count, ...product(matrices, count) }));
      for (const threads of [1, 2]) {
        const samples = repeated(() => {
          const alone = one.milliseconds(threads, one.passes);
          return more.map(({ count, milliseconds: kernel, passes }) => (count * alone) / kernel(threads, passes));
        });
        const busy = takeBusy();
        more.forEach(({ count }, i) => {
          const gain = spreadOf(samples.map((sample) => sample[i]!));
          const target = count === 8 && threads === 2 ? BATCH_TARGET[format] : null;
          (results.batch ??= []).push({ format, n, k, rows: count, threads, gain, busy, target });
          rows.push([
            `${format} ${n}x${k} M=${count} ${threads}T`, gain.median.toFixed(2), between(gain, (value) => value.toFixed(2)), percent(busy.median),
            ofTarget(gain, target, busy),
          ]);
        });
      }
    }
  }
  printTable(["rows/s against one row", "gain", "spread", "busy", "of target"], rows);
}

if (wanted("prefill")) {
  const rows: string[][] = [];
  for (const format of ["bfloat16", "int8"] as const) {
    for (const [n, k] of [[576, 576], [1536, 576], [576, 1536], [2048, 2048]] as const) {
      const matrices = pack(format, n, k, 4 * n * k);
      for (const count of [64, 128, 256, 512]) {
        const { milliseconds: kernel, passes } = product(matrices, count);
        for (const threads of [1, 2]) {
          const samples = repeated(() => flops(matrices, count) / kernel(threads, passes) / threads / 1e6);
          const rate = spreadOf(samples);
          const target = PREFILL_TARGET[format];
          const busy = takeBusy();
          (results.prefill ??= []).push({ format, n, k, rows: count, threads, gigaflopsPerThread: rate, busy, target });
          rows.push([
            `${format} ${n}x${k} M=${count} ${threads}T`, rate.median.toFixed(1), between(rate, (value) => value.toFixed(1)), percent(busy.median),
            ofTarget(rate, target, busy),
          ]);
        }
      }
    }
  }
  printTable(["many rows", "GFLOP/s/thread", "spread", "busy", "of target"], rows);
}

if (wanted("lora")) {
  const rows: string[][] = [];
  for (const format of ["bfloat16", "float32"] as const) {
    for (const rank of [4, 8, 16, 64]) {
      for (const [name, n, k] of [["shrink", rank, 576], ["expand", 576, rank]] as const) {
        const matrices = pack(format, n, k, 512 << 10);
        for (const count of [1, 8]) {
          const { milliseconds: kernel, passes } = product(matrices, count, name === "expand");
          const call = spreadOf(repeated(() => (kernel(1, passes) * 1e6) / matrices.count));
          const busy = takeBusy();
          const gigaflops = mapSpread(call, (ns) => (2 * n * k * count) / ns);
          (results.lora ??= []).push({ format, name, rank, n, k, rows: count, nanoseconds: call, gigaflops, busy });
          rows.push([
            `${format} ${name} r${rank} ${n}x${k} M=${count}`, call.median.toFixed(0), between(call, (value) => value.toFixed(0)),
            percent(busy.median), gigaflops.median.toFixed(1),
          ]);
        }
      }
    }
  }
  printTable(["adapter matrices, 1T", "ns/call", "spread", "busy", "GFLOP/s"], rows);
}

if (flags.json !== undefined) await writeRecord(flags.json, "kernels/wasm-linear", results, neighbours.cores());
await Promise.all(workers.map((worker) => worker.terminate()));
