/**
 * A plain SIMD loop that reads memory and adds it up: the bandwidth that decode is measured against.
 *
 * Its module is a few instructions, assembled here so that it needs no toolchain: four 16-byte loads and
 * four additions a round.
 */
import { createMemory } from "./module.ts";

/** `(func (export "read") (param at, end) (result i32))` over an imported shared memory. */
export function readModule(): Uint8Array<ArrayBuffer> {
  const text = (value: string): number[] => [value.length, ...new TextEncoder().encode(value)];
  const unsigned = (value: number): number[] => {
    const bytes: number[] = [];
    for (let rest = value; ; rest = Math.floor(rest / 128)) {
      if (rest < 128) return [...bytes, rest];
      bytes.push((rest % 128) | 128);
    }
  };
  const section = (id: number, body: number[]): number[] => [id, ...unsigned(body.length), ...body];
  const simd = (opcode: number): number[] => [0xfd, ...unsigned(opcode)];
  const local = { get: (i: number) => [0x20, i], set: (i: number) => [0x21, i] };
  // Locals: 0 at, 1 end, 2 to 5 sums.
  const round = [0, 1, 2, 3].flatMap((i) => [
    ...local.get(2 + i), ...local.get(0), ...simd(0), 4, ...unsigned(16 * i), ...simd(174), ...local.set(2 + i),
  ]);
  const body = [
    1, 4, 0x7b,
    0x03, 0x40,
    ...round,
    ...local.get(0), 0x41, 0xc0, 0x00, 0x6a, 0x22, 0, ...local.get(1), 0x49, 0x0d, 0,
    0x0b,
    ...local.get(2), ...local.get(3), ...simd(174), ...local.get(4), ...simd(174), ...local.get(5), ...simd(174),
    ...simd(27), 0,
    0x0b,
  ];
  return Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]),
    ...section(2, [1, ...text("env"), ...text("memory"), 2, 3, 1, ...unsigned(65536)]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...text("read"), 0, 0]),
    ...section(10, [1, ...unsigned(body.length), ...body]),
  ]);
}

const WORKER = `
self.onmessage = ({ data: { module, memory, at, end, control } }) => {
  const { read } = new WebAssembly.Instance(module, { env: { memory } }).exports;
  const words = new Int32Array(control);
  self.postMessage("ready");
  let seen = 0;
  setTimeout(() => {
    for (;;) {
      Atomics.wait(words, 0, seen);
      seen = Atomics.load(words, 0);
      for (let i = 0; i < words[16]; i++) words[32] = read(at, end);
      if (Atomics.add(words, 48, 1) + 1 === words[17]) Atomics.notify(words, 48);
    }
  });
};`;

export class ReadLoop {
  readonly #words: Int32Array;
  readonly #workers: readonly Worker[];

  private constructor(words: Int32Array, workers: readonly Worker[]) {
    this.#words = words;
    this.#workers = workers;
  }

  /** Over bytes that are there already: the very ones that a kernel reads. */
  static async over(memory: WebAssembly.Memory, at: number, numBytes: number, numThreads: number): Promise<ReadLoop> {
    const module = new WebAssembly.Module(readModule());
    const words = new Int32Array(new SharedArrayBuffer(256));
    words[17] = numThreads;
    const url = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));
    const share = Math.floor(numBytes / numThreads / 64) * 64;
    const workers = await Promise.all(
      Array.from({ length: numThreads }, async (_, i) => {
        const worker = new Worker(url);
        const ready = new Promise((resolve) => (worker.onmessage = resolve));
        const begin = at + i * share;
        worker.postMessage({ module, memory, at: begin, end: begin + share, control: words.buffer });
        await ready;
        return worker;
      }),
    );
    const loop = new ReadLoop(words, workers);
    await loop.milliseconds(3);
    return loop;
  }

  /** Mean time of one pass over all bytes, all threads together. */
  async milliseconds(passes: number): Promise<number> {
    const words = this.#words;
    words[16] = passes;
    Atomics.store(words, 48, 0);
    const started = performance.now();
    Atomics.add(words, 0, 1);
    Atomics.notify(words, 0);
    const numThreads = words[17]!;
    for (let done = Atomics.load(words, 48); done < numThreads; done = Atomics.load(words, 48)) {
      await Atomics.waitAsync(words, 48, done).value;
    }
    return (performance.now() - started) / passes;
  }

  close(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}

const MAX_MEASURED_BYTES = 1 << 30;
const MEASURED_MS = 200;
const PAGE = 65_536;

/** Bytes per second that `numThreads` read together from as many bytes as a model has, which decides how much of it caches hold. */
export async function measureReadRate(numBytes: number, numThreads: number): Promise<number> {
  const pages = Math.ceil(Math.min(numBytes, MAX_MEASURED_BYTES) / PAGE);
  const memory = createMemory(pages * PAGE);
  // Pages that nobody wrote are one and the same.
  new Uint8Array(memory.buffer).fill(1);
  const loop = await ReadLoop.over(memory, 0, pages * PAGE, numThreads);
  const passes = Math.max(1, Math.ceil(MEASURED_MS / (await loop.milliseconds(1))));
  const ms = await loop.milliseconds(passes);
  loop.close();
  return (pages * PAGE * 1000) / ms;
}
