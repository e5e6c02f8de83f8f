/**
 * Decode and prefill on an NVIDIA device, against the time that the memory bus needs for the bytes of a step.
 *
 *   bun bench/throughput/cuda.ts [--model DIR] [--context N] [--json FILE] [--quick]
 *
 * DIR holds a config.json; its weights are made up on the device. Random token ids, a KV cache filled by real prefill,
 * pages scattered. Cases alternate within each round, so that a ratio of two cases compares neighbours in time. Times
 * are of whole steps as JavaScript sees them, from one result to the next, the next step given ahead as the scheduler does.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { memoryRateOf } from "../../src/backend/cuda/memory-rate.ts";
import { asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { Step } from "../../src/core/step.ts";
import { pace } from "../lib/pace.ts";
import { adapterBytes, openRig, randomAdapter, slotsOf } from "../lib/cuda-rig.ts";
import { printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";
import { attach, detach } from "../../test/helpers/attach.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: join(import.meta.dir, "../shapes/llama-3.1-8b") },
    context: { type: "string", default: "1024" },
    json: { type: "string" },
    quick: { type: "boolean", default: false },
  },
});
const context = Number(flags.context);
const rounds = flags.quick ? 3 : 5;
const stepsPerRound = flags.quick ? 6 : 20;
const MAX_SEQUENCES = 256;
const PREFILL_ROWS = 8192;
const NUM_SLOTS = 100;
const RANK16_SLOTS = 32;

const started = performance.now();
const say = (text: string): void => console.error(`${((performance.now() - started) / 1000).toFixed(1)} s  ${text}`);

const rig = await openRig({ model: flags.model, maxRows: PREFILL_ROWS, maxSequences: MAX_SEQUENCES, context, numSlots: NUM_SLOTS, adapterBytes: 12 * 2 ** 30 });
const { program, backend, decode, prefill, sequence, ids } = rig;
say(`open: ${backend.info.description}`);

const perStep = Math.floor(PREFILL_ROWS / context);
const fills: number[] = [];
for (let first = 0; first < MAX_SEQUENCES; first += perStep) {
  const count = Math.min(perStep, MAX_SEQUENCES - first);
  const at = performance.now();
  await backend.run({ sequences: Array.from({ length: count }, (_, i) => sequence(first + i, 0, ids(context), NO_SLOT)) });
  fills.push(performance.now() - at);
}
say(`KV filled, ${spreadOf(fills).median.toFixed(1)} ms for ${perStep * context} tokens`);

interface Case {
  readonly name: string;
  readonly step: () => Step;
  /** Tokens that a step makes or reads. */
  readonly tokens: number;
  /** Bytes that a step cannot avoid. */
  readonly bytes: number;
  /** Steps of one round, of `stepsPerRound` */
  readonly share: number;
}

const isMatrix = (kind: string): boolean => kind === "matrix";
const allMatrices = program.weights.filter(({ kind }) => isMatrix(kind)).reduce((sum, { rows, cols }) => sum + rows * cols * 2, 0);
/** The embedding is read a row at a time, unless the head is the same matrix. */
const embedding = program.operations.some((operation) => operation.kind === "linear" && operation.weight === 0) ? 0 : program.vocabSize * program.hiddenSize * 2;
const weightBytes = allMatrices - embedding;
const kvBytes = (rows: number): number => rows * context * program.numLayers * 2 * program.attention.numKvHeads * program.attention.headDim * 2;
const base = (count: number): SlotId[] => Array.from({ length: count }, () => NO_SLOT);

const decodeCase = (name: string, slots: readonly SlotId[], loraBytes = 0): Case => ({
  name,
  step: () => decode(slots),
  tokens: slots.length,
  bytes: weightBytes + kvBytes(slots.length) + loraBytes,
  share: 1,
});

async function measure(cases: readonly Case[]): Promise<Map<string, { wall: Spread; native: Spread }>> {
  const wall = new Map(cases.map(({ name }) => [name, [] as number[]]));
  const native = new Map(cases.map(({ name }) => [name, [] as number[]]));
  for (const { step } of cases) for (let i = 0; i < 3; i++) await backend.run(step());
  for (let round = 0; round < rounds; round++) {
    for (const { name, tokens, step, share } of cases) {
      let left = Math.max(1, stepsPerRound * share);
      for await (const each of pace(backend, tokens, step)) {
        wall.get(name)!.push(each.wall);
        native.get(name)!.push(each.native);
        if (--left <= 0) break;
      }
    }
  }
  return new Map(cases.map(({ name }) => [name, { wall: spreadOf(wall.get(name)!), native: spreadOf(native.get(name)!) }]));
}

const bandwidth = memoryRateOf(backend.info.description) ?? undefined;
const results: Record<string, unknown> = {};
type Measured = Awaited<ReturnType<typeof measure>>;

function show(title: string, cases: readonly Case[], measured: Measured): void {
  console.log(`\n${title}`);
  printTable(
    ["case", "ms", "min", "max", "native ms", "tokens/s", "bytes ms", "of limit"],
    cases.map(({ name, tokens, bytes }) => {
      const { wall, native } = measured.get(name)!;
      const limit = bandwidth === undefined ? Number.NaN : (bytes / bandwidth) * 1000;
      return [
        name, wall.median.toFixed(3), wall.min.toFixed(3), wall.max.toFixed(3), native.median.toFixed(3), ((tokens * 1000) / wall.median).toFixed(0),
        limit.toFixed(3), `${((100 * limit) / wall.median).toFixed(1)} %`,
      ];
    }),
  );
  results[title] = cases.map(({ name, tokens, bytes }) => ({ name, tokens, bytes, ...measured.get(name)!, tokensPerSecond: (tokens * 1000) / measured.get(name)!.wall.median }));
}

const decodeBase = [1, 8, 32, 64, 128, 256].map((rows) => decodeCase(`base, B=${rows}`, base(rows)));
const before = await measure(decodeBase);
show("decode, no adapter on the device", decodeBase, before);

const rank16 = Array.from({ length: RANK16_SLOTS }, (_, i) => randomAdapter(program, 100 + i, () => 16));
const mixedRanks = [8, 16, 64, 128].map((rank, i) => randomAdapter(program, 200 + i, () => rank));
for (const [slot, adapter] of [...rank16, ...mixedRanks].entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
const small = randomAdapter(program, 300, () => 2);
for (let slot = rank16.length + mixedRanks.length; slot < NUM_SLOTS; slot++) await attach(backend, asSlotId(slot), await backend.stage(small));
say(`${NUM_SLOTS} adapters attached`);

const mixedSlots = slotsOf(4, 8, RANK16_SLOTS);
const sum = (adapters: readonly Parameters<typeof adapterBytes>[0][]): number => adapters.reduce((total, adapter) => total + adapterBytes(adapter), 0);
const withAdapters = [
  decodeCase("base, B=32", base(32)),
  decodeCase("B=32, 32 distinct rank 16", slotsOf(32), sum(rank16)),
  decodeCase("B=32, one rank 16", slotsOf(1, 32), adapterBytes(rank16[0]!)),
  decodeCase("B=32, ranks 8 16 64 128", mixedSlots, sum(mixedRanks)),
  decodeCase("base, B=64", base(64)),
  decodeCase("B=64, 8 distinct rank 16", slotsOf(8, 8), sum(rank16.slice(0, 8))),
  decodeCase("B=64, 8 of 64 rows rank 16", [...slotsOf(8), ...base(56)], sum(rank16.slice(0, 8))),
];
const lora = await measure(withAdapters);
show(`decode, ${NUM_SLOTS} adapters on the device`, withAdapters, lora);
const after = await measure(decodeBase);
show(`decode of base rows, ${NUM_SLOTS} adapters on the device`, decodeBase, after);

const prompts = (slots: readonly SlotId[]): Case => ({ name: "", step: () => prefill(slots, context), tokens: slots.length * context, bytes: weightBytes, share: 0.1 });
const prefills: Case[] = [
  { ...prompts(base(1)), name: "1 prompt" },
  { ...prompts(base(perStep)), name: `${perStep} prompts` },
  { ...prompts(slotsOf(1, perStep)), name: `${perStep} prompts, one rank 16` },
  { ...prompts(slotsOf(perStep)), name: `${perStep} prompts, as many rank 16` },
];
const prefilled = await measure(prefills);
show(`prefill of ${context} tokens a prompt`, prefills, prefilled);

const added = (name: string, reference: string): number => lora.get(name)!.wall.median - lora.get(reference)!.wall.median;
const addedRows = (
  [
    ["B=32, 32 distinct rank 16", "base, B=32", sum(rank16)],
    ["B=32, one rank 16", "base, B=32", adapterBytes(rank16[0]!)],
    ["B=32, ranks 8 16 64 128", "base, B=32", sum(mixedRanks)],
    ["B=64, 8 distinct rank 16", "base, B=64", sum(rank16.slice(0, 8))],
  ] as const
).map(([name, reference, bytes]) => {
  const ms = added(name, reference);
  const floor = bandwidth === undefined ? Number.NaN : (bytes / bandwidth) * 1000;
  const over = (ms - floor) / lora.get(reference)!.wall.median;
  return { name, addedMs: ms, bytesMs: floor, overBytesShareOfBase: over };
});
console.log("\nadded by adapters");
printTable(
  ["case", "added ms", "bytes ms", "over bytes, of base step"],
  addedRows.map(({ name, addedMs, bytesMs, overBytesShareOfBase }) => [name, addedMs.toFixed(3), bytesMs.toFixed(3), `${(100 * overBytesShareOfBase).toFixed(1)} %`]),
);
const tax = decodeBase.map(({ name }) => ({ name, share: after.get(name)!.wall.median / before.get(name)!.wall.median - 1 }));
console.log(`\nbase traffic beside ${NUM_SLOTS} adapters: ${tax.map(({ name, share }) => `${name} ${(100 * share).toFixed(2)} %`).join(", ")}`);
const prefillTax = prefilled.get(`${perStep} prompts, as many rank 16`)!.wall.median / prefilled.get(`${perStep} prompts`)!.wall.median - 1;
const prefillTaxOne = prefilled.get(`${perStep} prompts, one rank 16`)!.wall.median / prefilled.get(`${perStep} prompts`)!.wall.median - 1;
console.log(`prefill with rank-16 adapters on all rows: ${perStep} adapters ${(100 * prefillTax).toFixed(1)} %, one ${(100 * prefillTaxOne).toFixed(1)} %`);

// Adapters come and go while steps run.
const staged = await backend.stage(rank16[0]!);
const attaches: number[] = [];
const stepsBeside: number[] = [];
const quiet: number[] = [];
for await (const { wall } of pace(backend, 32, () => decode(base(32)))) {
  if (quiet.push(wall) === 40) break;
}
let isAttaching = true;
const attaching = (async () => {
  for (let i = 0; i < 10; i++) {
    detach(backend, asSlotId(NUM_SLOTS - 1));
    const at = performance.now();
    await attach(backend, asSlotId(NUM_SLOTS - 1), staged);
    attaches.push(performance.now() - at);
    await Bun.sleep(5);
  }
  isAttaching = false;
})();
for await (const { wall } of pace(backend, 32, () => decode(base(32)))) {
  stepsBeside.push(wall);
  if (!isAttaching) break;
}
await attaching;
const worst = Math.max(...stepsBeside) / spreadOf(quiet).median;
console.log(`attach of ${(staged.numBytes / 1e6).toFixed(0)} MB under load: median ${spreadOf(attaches).median.toFixed(2)} ms; longest step beside it ${worst.toFixed(2)} x the median, longest step without ${(Math.max(...quiet) / spreadOf(quiet).median).toFixed(2)} x`);

if (flags.json !== undefined) {
  await writeRecord(flags.json, "throughput/cuda", {
    model: JSON.parse(await Bun.file(join(flags.model, "config.json")).text()),
    device: backend.info.description,
    context,
    bandwidth,
    results,
    addedByAdapters: addedRows,
    baseTax: tax,
    prefillTax: { asMany: prefillTax, one: prefillTaxOne },
    attach: { bytes: staged.numBytes, milliseconds: spreadOf(attaches), quiet: spreadOf(quiet), beside: spreadOf(stepsBeside) },
  });
}
await backend.close();
