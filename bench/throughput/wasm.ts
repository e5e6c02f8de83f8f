/**
 * What the WASM backend makes of the machine's memory bandwidth and arithmetic.
 *
 *   bun bench/throughput/wasm.ts [--model demo|135m] [--format bfloat16|int8|float32] [--threads N] [--json FILE]
 *
 * Decode is compared with a plain SIMD read loop over the same bytes where they lie, with the same number of
 * threads, between the same repetitions; prefill with the arithmetic of its linear layers, though its time is that of
 * the whole step, attention included. Random weights, random ids. Ratios are taken within a repetition.
 */
import { join } from "node:path";
import type { Backend, WeightFormat } from "../../src/backend/backend.ts";
import { kvPageBytes, openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asPageId, asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { Step, StepSequence } from "../../src/core/step.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { attach } from "../../test/helpers/attach.ts";
import { samplingWith } from "../../test/helpers/sampling.ts";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { ReadLoop } from "../../src/backend/wasm/read-loop.ts";
import { DEMO_SHAPE, LLAMA_135M, type ModelShape, randomAdapter, randomModel, randomSource } from "../lib/random-model.ts";
import { atLeast, atMost, mapSpread, Neighbours, printLimits, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";

const REPEATS = 5;
const CONTEXT = 64;
const NUM_ADAPTERS = 8;
const RANK = 16;

/** What each weight format is held to; float32 is the reference and held to nothing. */
const LIMITS: Partial<Record<WeightFormat, { readonly shareOfRead: number; readonly gainOf8: number; readonly gigaflops: number }>> = {
  bfloat16: { shareOfRead: 0.7, gainOf8: 1.6, gigaflops: 30 },
  int8: { shareOfRead: 0.6, gainOf8: 1.8, gigaflops: 50 },
};
const MOST_LORA_COST = 0.15;

const flags = parseFlags({ model: "135m", format: "bfloat16", threads: "2", json: undefined });
const shape: ModelShape = oneOf("model", flags.model, ["demo", "135m"]) === "demo" ? DEMO_SHAPE : LLAMA_135M;
const format: WeightFormat = oneOf("format", flags.format, ["bfloat16", "int8", "float32"]);
const numThreads = integerIn("threads", flags.threads, 1, 64);
const root = join(import.meta.dir, "../models");

const directory = await randomModel(shape, root);
const program = buildDecoderProgram(readModelConfig(directory));
const pagesPerSequence = 40;
const backend = await openWasmBackend({
  program,
  weights: openCheckpoint(directory),
  format,
  numThreads,
  maxRows: 512,
  maxSequences: 32,
  numExtents: 32 * pagesPerSequence + Math.ceil((512 << 20) / kvPageBytes(program)),
  numPages: 32 * pagesPerSequence,
  numSlots: NUM_ADAPTERS,
});
for (let i = 0; i < NUM_ADAPTERS; i++) {
  const adapter = await readAdapter(await randomAdapter(shape, RANK, i, root), program);
  await attach(backend, asSlotId(i), await backend.stage(adapter));
}

const random = randomSource(3);
const ids = (count: number): number[] => Array.from({ length: count }, () => Math.floor(random() * shape.vocabSize));
const { pageTokens } = backend.info;

function sequence(index: number, position: number, tokens: number[], slot: SlotId, sample: boolean): StepSequence {
  const pages = Math.ceil((position + tokens.length) / pageTokens);
  return {
    tokens,
    position,
    pages: Array.from({ length: pages }, (_, i) => asPageId(index * pagesPerSequence + i)),
    slot,
    sample: sample ? { sampling: samplingWith(), counter: 0, adjustments: [] } : null,
  };
}

const decodeStep = (batch: number, slots: readonly SlotId[]): Step => ({
  sequences: Array.from({ length: batch }, (_, i) => sequence(i, CONTEXT, ids(1), slots[i % slots.length]!, true)),
});
const prefillStep = (rows: number, slot: SlotId): Step => ({ sequences: [sequence(0, 0, ids(rows), slot, true)] });

const base = [NO_SLOT];
const distinct = Array.from({ length: NUM_ADAPTERS }, (_, i) => asSlotId(i));
const cases: { name: string; step: () => Step; rows: number; loops: number }[] = [
  { name: "decode 1", step: () => decodeStep(1, base), rows: 1, loops: 24 },
  { name: "decode 8", step: () => decodeStep(8, base), rows: 8, loops: 8 },
  { name: "decode 8, 8 adapters", step: () => decodeStep(8, distinct), rows: 8, loops: 8 },
  { name: "decode 8, 1 adapter", step: () => decodeStep(8, distinct.slice(0, 1)), rows: 8, loops: 8 },
  { name: "decode 32", step: () => decodeStep(32, base), rows: 32, loops: 3 },
  { name: "prefill 64", step: () => prefillStep(64, NO_SLOT), rows: 64, loops: 3 },
  { name: "prefill 128", step: () => prefillStep(128, NO_SLOT), rows: 128, loops: 2 },
  { name: "prefill 256", step: () => prefillStep(256, NO_SLOT), rows: 256, loops: 1 },
  { name: "prefill 512", step: () => prefillStep(512, NO_SLOT), rows: 512, loops: 1 },
  { name: "prefill 256, 1 adapter", step: () => prefillStep(256, asSlotId(0)), rows: 256, loops: 1 },
];

async function time(backend: Backend, step: () => Step, loops: number): Promise<number> {
  const started = performance.now();
  for (let i = 0; i < loops; i++) await backend.run(step());
  return (performance.now() - started) / loops;
}

const { memory, at, numBytes } = backend.weights;
const reader = await ReadLoop.over(memory, at, numBytes, numThreads);
// Every sequence's pages hold real keys before decode reads them, and the compiler has seen every path.
for (let i = 0; i < 32; i++) await backend.run({ sequences: [sequence(i, 0, ids(CONTEXT), NO_SLOT, false)] });
for (const { step } of cases) for (let i = 0; i < 3; i++) await backend.run(step());

/** A step of a small model takes a fraction of a millisecond: samples of that length measure the neighbours. */
const LEAST_SAMPLE_MS = 50;
const loopsOf = new Map<string, number>();
for (const { name, step, loops } of cases) {
  loopsOf.set(name, Math.max(loops, Math.ceil(LEAST_SAMPLE_MS / (await time(backend, step, loops)))));
}
const readLoops = Math.max(24, Math.ceil(LEAST_SAMPLE_MS / (await reader.milliseconds(24))));

const samples = new Map<string, number[]>(cases.map(({ name }) => [name, []]));
const reads: number[] = [];
const neighbours = new Neighbours();
for (let repeat = 0; repeat < REPEATS; repeat++) {
  // The read loop runs beside the case it is compared with, so that a busy neighbour slows both.
  for (const { name, step } of cases) {
    if (name === "decode 1") reads.push(await reader.milliseconds(readLoops));
    samples.get(name)!.push(await time(backend, step, loopsOf.get(name)!));
  }
}

const coresOfOthers = neighbours.cores();

const milliseconds = (name: string): Spread => spreadOf(samples.get(name)!);
const read = mapSpread(spreadOf(reads), (ms) => numBytes / ms / 1e6);
const linearParameters = program.weights
  .filter((weight) => weight.kind === "matrix" && weight.rows !== shape.vocabSize)
  .reduce((sum, weight) => sum + weight.rows * weight.cols, 0);
const paired = (name: string, other: string, to: (a: number, b: number) => number): Spread =>
  spreadOf(samples.get(name)!.map((ms, i) => to(ms, samples.get(other)![i]!)));

const figures = {
  readLoopGBs: read,
  decode1GBs: mapSpread(milliseconds("decode 1"), (ms) => backend.info.weightBytes / ms / 1e6),
  decode1ShareOfRead: spreadOf(samples.get("decode 1")!.map((ms, i) => reads[i]! / ms)),
  decode8OverDecode1: paired("decode 8", "decode 1", (a, b) => (8 * b) / a),
  lora8DistinctCost: paired("decode 8, 8 adapters", "decode 8", (a, b) => a / b - 1),
  lora1Cost: paired("decode 8, 1 adapter", "decode 8", (a, b) => a / b - 1),
  loraPrefillCost: paired("prefill 256, 1 adapter", "prefill 256", (a, b) => a / b - 1),
  prefillGFlopsPerThread: Object.fromEntries(
    ["prefill 64", "prefill 128", "prefill 256", "prefill 512"].map((name) => {
      const rows = cases.find((one) => one.name === name)!.rows;
      return [name, mapSpread(milliseconds(name), (ms) => (2 * linearParameters * rows) / ms / 1e6 / numThreads)];
    }),
  ),
};

const limit = LIMITS[format];
const limits =
  limit === undefined
    ? []
    : [
        atLeast("decode 1, share of read loop", figures.decode1ShareOfRead, limit.shareOfRead),
        atLeast("8 rows over 1, tokens/s", figures.decode8OverDecode1, limit.gainOf8),
        ...Object.entries(figures.prefillGFlopsPerThread).map(([name, rate]) => atLeast(`${name}, GFLOP/s per thread`, rate, limit.gigaflops)),
        atMost("8 distinct rank-16 adapters, added time", figures.lora8DistinctCost, MOST_LORA_COST),
      ];

console.log(`${shape.name}, ${backend.info.description}, weights ${(backend.info.weightBytes / 1e6).toFixed(0)} MB, median of ${REPEATS}`);
printTable(
  ["case", "ms", "min", "max", "tokens/s"],
  cases.map(({ name, rows }) => {
    const ms = milliseconds(name);
    return [name, ms.median.toFixed(2), ms.min.toFixed(2), ms.max.toFixed(2), ((rows * 1000) / ms.median).toFixed(0)];
  }),
);
const show = (label: string, value: Spread, unit = ""): string[] => [
  label,
  value.median.toFixed(2) + unit,
  value.min.toFixed(2),
  value.max.toFixed(2),
];
console.log();
printTable(
  ["figure", "median", "min", "max"],
  [
    show("read loop, GB/s", figures.readLoopGBs),
    show("decode 1, GB/s of weights", figures.decode1GBs),
    show("decode 1, share of read loop", figures.decode1ShareOfRead),
    show("8 rows over 1, tokens/s", figures.decode8OverDecode1, "x"),
    show("8 distinct rank-16 adapters, added time", figures.lora8DistinctCost),
    show("1 rank-16 adapter on 8 rows, added time", figures.lora1Cost),
    show("1 rank-16 adapter, prefill 256, added time", figures.loraPrefillCost),
    ...Object.entries(figures.prefillGFlopsPerThread).map(([name, value]) => show(`${name}, GFLOP/s per thread`, value)),
  ],
);
printLimits(limits);
if (flags.json !== undefined) {
  const results = { shape, format, numThreads, milliseconds: Object.fromEntries(cases.map(({ name }) => [name, milliseconds(name)])), figures, limits };
  await writeRecord(flags.json, "throughput/wasm", results, coresOfOthers);
}
reader.close();
await backend.close();
process.exit(0);
