/**
 * The grouped product of a mixture of experts, against a plain linear operation of as many bytes and as much arithmetic.
 *
 *   bun bench/kernels/wasm-experts.ts [--format bfloat16|int8|float32] [--threads N] [--json FILE]
 *
 * Both run as operations of a step, several in a row over matrices of their own, so that weights come from memory. Tokens
 * choose their experts: rows of one token have the same four, four tokens have all sixteen between them. What
 * grouping costs is the time beyond the plain operation's; both alternate, and ratios are taken within a repetition.
 */
import type { Backend, WeightFormat } from "../../src/backend/backend.ts";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asPageId, NO_SLOT } from "../../src/core/ids.ts";
import type { Operation, Program, WeightSpec } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { randomBfloat16, randomSource } from "../lib/random-model.ts";
import { mapSpread, Neighbours, printTable, spreadOf, writeRecord } from "../lib/record.ts";

const REPEATS = 7;
/** Samples shorter than this measure the neighbours. */
const LEAST_SAMPLE_MS = 60;
const EXPERTS = 16;
const TOP_K = 4;
/** Of one expert: gate and up, 768 each, of a model 1,024 wide. */
const [ROWS, COLS] = [1536, 1024];
const NUM_TOKENS = EXPERTS / TOP_K;
const NUM_OPERATIONS = 4;

const flags = parseFlags({ format: "bfloat16", threads: "2", json: undefined });
const format: WeightFormat = oneOf("format", flags.format, ["bfloat16", "int8", "float32"]);
const numThreads = integerIn("threads", flags.threads, 1, 64);

/** `linear` has the matrices of as many experts as a row is given, stacked. */
function programOf(kind: "expertLinear" | "linear"): Program {
  const weights: WeightSpec[] = [];
  const weight = (name: string, rows: number, kindOf: WeightSpec["kind"], numExperts = 1): number =>
    weights.push({ name, kind: kindOf, rows, cols: COLS, numExperts, parts: [{ tensor: name, rows: rows * numExperts }] }) - 1;
  const [x, logits, routes, out] = [0, 1, 2, 3];
  const operations: Operation[] = [
    { kind: "embed", weight: weight("embed", NUM_TOKENS, "matrix"), out: x, site: null },
    { kind: "linear", x, weight: weight("router", EXPERTS, "exact"), bias: null, out: logits, accumulate: false, site: null },
    { kind: "route", logits, out: routes, normalize: true },
  ];
  for (let i = 0; i < NUM_OPERATIONS; i++) {
    operations.push(
      kind === "expertLinear"
        ? { kind, x, routes, weight: weight(`experts.${i}`, ROWS, "matrix", EXPERTS), out, site: 0 }
        : { kind, x, weight: weight(`linear.${i}`, TOP_K * ROWS, "matrix"), bias: null, out, accumulate: false, site: null },
    );
  }
  return {
    numLayers: 1,
    hiddenSize: COLS,
    vocabSize: NUM_TOKENS,
    maxContext: 512,
    attention: { numHeads: 1, numKvHeads: 1, headDim: 8, scale: 1 },
    rope: { rotaryDim: 8, inverseFrequencies: [1, 1, 1, 1], attentionScaling: 1 },
    routing: { numExperts: EXPERTS, topK: TOP_K },
    buffers: [
      { name: "x", width: COLS, rows: "step" },
      { name: "logits", width: EXPERTS, rows: "step" },
      { name: "routes", width: 2 * TOP_K, rows: "step" },
      kind === "expertLinear" ? { name: "out", width: ROWS, rows: "routed" } : { name: "out", width: TOP_K * ROWS, rows: "step" },
    ],
    weights,
    sites: Array.from({ length: EXPERTS }, (_, expert) => ({ name: `${expert}`, layer: 0, inWidth: COLS, outWidth: ROWS, modules: [], expert })),
    operations,
  };
}

/** Token t has a one in column t, of which the router makes its choice; all other columns are random. */
function weightsOf(program: Program): WeightSource {
  const random = randomBfloat16(1 << 20, 1 / Math.sqrt(COLS), randomSource(5));
  const one = 0x3f80;
  const fill = (tensor: string, row: number, to: Uint16Array): void => {
    const from = ((row * 37) % 512) * COLS;
    to.set(random.subarray(from, from + COLS));
    if (tensor !== "embed" && tensor !== "router") return;
    to.fill(0, 0, tensor === "router" ? COLS : NUM_TOKENS);
    to[tensor === "embed" ? row : Math.floor(row / TOP_K)] = one;
  };
  return {
    info(tensor) {
      const { rows, numExperts = 1 } = program.weights.find(({ name }) => name === tensor)!;
      return { dtype: "BF16", rows: rows * numExperts, cols: COLS };
    },
    readRows(tensor, rowStart, numRows, target) {
      const to = new Uint16Array(target.buffer, target.byteOffset, numRows * COLS);
      for (let i = 0; i < numRows; i++) fill(tensor, rowStart + i, to.subarray(i * COLS, (i + 1) * COLS));
    },
  };
}

const open = (program: Program): Promise<Backend> =>
  openWasmBackend({ program, weights: weightsOf(program), format, numThreads, maxRows: 256, maxSequences: 8, numExtents: 32, numPages: 32, numSlots: 1 });
const [grouped, plain] = [await open(programOf("expertLinear")), await open(programOf("linear"))];

const run = (backend: Backend, tokens: readonly number[]) =>
  backend.run({
    sequences: [{ tokens: [...tokens], position: 0, pages: Array.from({ length: Math.ceil(tokens.length / 16) }, (_, i) => asPageId(i)), slot: NO_SLOT, sample: null }],
  });
const time = async (backend: Backend, tokens: readonly number[], loops: number): Promise<number> => {
  const started = performance.now();
  for (let i = 0; i < loops; i++) await run(backend, tokens);
  return (performance.now() - started) / loops / NUM_OPERATIONS;
};

const same = (rows: number): number[] => Array.from({ length: rows }, () => 0);
const spread = (rows: number): number[] => Array.from({ length: rows }, (_, i) => i % NUM_TOKENS);
const CASES = [
  { name: "1 row", tokens: same(1), experts: TOP_K },
  { name: "8 rows, the same experts", tokens: same(8), experts: TOP_K },
  { name: "8 rows, all experts", tokens: spread(8), experts: EXPERTS },
  { name: "32 rows, all experts", tokens: spread(32), experts: EXPERTS },
  { name: "256 rows, all experts", tokens: spread(256), experts: EXPERTS },
];

const neighbours = new Neighbours();
const results = [];
for (const { name, tokens, experts } of CASES) {
  // The compiler has seen both before anything counts.
  for (const backend of [grouped, plain]) await time(backend, tokens, 3);
  const loops = Math.ceil(LEAST_SAMPLE_MS / NUM_OPERATIONS / (await time(plain, tokens, 2)));
  const samples: { grouped: number; plain: number }[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    samples.push({ plain: await time(plain, tokens, loops), grouped: await time(grouped, tokens, loops) });
  }
  const milliseconds = spreadOf(samples.map((sample) => sample.grouped));
  const expertBytes = grouped.info.weightBytes / (NUM_OPERATIONS * EXPERTS);
  results.push({
    name,
    rows: tokens.length,
    experts,
    milliseconds,
    plainMilliseconds: spreadOf(samples.map((sample) => sample.plain)),
    timesPlain: spreadOf(samples.map((sample) => sample.grouped / sample.plain)),
    gigabytes: mapSpread(milliseconds, (ms) => (experts * expertBytes) / ms / 1e6),
    gigaflopsPerThread: mapSpread(milliseconds, (ms) => (2 * ROWS * COLS * TOP_K * tokens.length) / ms / 1e6 / numThreads),
  });
}

console.log(`${EXPERTS} experts of [${ROWS}, ${COLS}], ${TOP_K} a row, ${grouped.info.description}, median of ${REPEATS}`);
printTable(
  ["one operation", "ms", "min", "max", "x plain", "GB/s", "GFLOP/s per thread"],
  results.map(({ name, milliseconds: { median, min, max }, timesPlain, gigabytes, gigaflopsPerThread }) => [
    name, median.toFixed(2), min.toFixed(2), max.toFixed(2), timesPlain.median.toFixed(2), gigabytes.median.toFixed(1), gigaflopsPerThread.median.toFixed(1),
  ]),
);
if (flags.json !== undefined) {
  await writeRecord(flags.json, "kernels/wasm-experts", { format, numThreads, shape: { experts: EXPERTS, topK: TOP_K, rows: ROWS, cols: COLS }, results }, neighbours.cores());
}
await grouped.close();
await plain.close();
process.exit(0);
