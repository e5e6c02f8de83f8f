/**
 * Where the time of a mixture of experts goes on an NVIDIA device: each kind of launch over some layers, as one graph, and
 * whole steps.
 *
 *   bun bench/kernels/cuda-experts.ts [--model DIR] [--layers N] [--json FILE]
 *
 * The share of a product of experts is of the time that the memory bus needs for the matrices of those experts that rows
 * were given, each read once, as they were chosen where it was measured.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { memoryRateOf } from "../../src/backend/cuda/memory-rate.ts";
import { LAUNCH, LAUNCH_OP, LAUNCH_WORDS } from "../../src/backend/cuda/layout.ts";
import { lowerProgram } from "../../src/backend/cuda/lower-program.ts";
import { asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { Step } from "../../src/core/step.ts";
import { openRig, randomAdapter, slotsOf } from "../lib/cuda-rig.ts";
import { printTable, spreadOf, writeRecord } from "../lib/record.ts";
import { attach } from "../../test/helpers/attach.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: join(import.meta.dir, "../shapes/qwen3-30b-a3b") },
    layers: { type: "string", default: "4" },
    json: { type: "string" },
  },
});
const CONTEXT = 256;
const STEPS = 15;
const NUM_SLOTS = 8;
const rig = await openRig({ model: flags.model, numLayers: Number(flags.layers), maxRows: 2048, maxSequences: 256, context: CONTEXT, numSlots: NUM_SLOTS, adapterBytes: 2 * 2 ** 30 });
const { program, backend, decode, prefill } = rig;
for (let slot = 0; slot < NUM_SLOTS; slot++) await attach(backend, asSlotId(slot), await backend.stage(randomAdapter(program, slot, () => 16)));
const { numExperts, topK } = program.routing!;
const bandwidth = memoryRateOf(backend.info.description) ?? Number.NaN;
const { launches } = lowerProgram(program);
const word = (launch: number, field: keyof typeof LAUNCH): number => launches[launch * LAUNCH_WORDS + LAUNCH[field]]!;
const opName = (launch: number): string => Object.entries(LAUNCH_OP).find(([, value]) => value === word(launch, "op"))![0];
const routing = Array.from({ length: launches.length / LAUNCH_WORDS }, (_, launch) => launch).find((launch) => word(launch, "op") === LAUNCH_OP.route)!;

/** Experts that have rows: each kind of launch was timed by itself, so what the last router said holds for all of them. */
async function busyExperts(step: Step): Promise<number> {
  const { buffers } = await backend.runLaunches(step, routing, 1, [], [word(routing, "out")]);
  return new Set(buffers[0]!.filter((_, i) => i % (2 * topK) < topK)).size;
}

const base = (count: number): SlotId[] => Array.from({ length: count }, () => NO_SLOT);
const steps: readonly (readonly [name: string, step: Step, rows: number])[] = [
  ...[1, 4, 8, 16, 32, 64, 256].map((rows) => [`decode ${rows}`, decode(base(rows)), rows] as const),
  ["decode 8, 8 rank 16", decode(slotsOf(NUM_SLOTS)), NUM_SLOTS],
  ["decode 64, 8 rank 16", decode(slotsOf(NUM_SLOTS, 8)), 64],
  ["prefill 8x256", prefill(base(8), 256), 2048],
  ["prefill 8x256, 8 rank 16", prefill(slotsOf(NUM_SLOTS), 256), 2048],
];
const record: Record<string, unknown> = {};
for (const [name, step, rows] of steps) {
  const elapsed: number[] = [];
  for (let i = 0; i < STEPS; i++) elapsed.push((await backend.run(step)).computeMs);
  const times = await backend.profile(step);
  const experts = await busyExperts(step);
  const table = times.map(({ launch, parts, count, micros }) => {
    const op = opName(launch);
    const { rows: n, cols } = program.weights[word(launch, "weight")] ?? { rows: 0, cols: 0 };
    const bytes = op === "expertLinear" ? experts * n * cols * 2 : op === "linear" ? n * cols * 2 : op === "exactLinear" ? n * cols * 4 : 0;
    const flops = 2 * n * cols * (op === "expertLinear" ? rows * topK : rows);
    return { kind: `${op}${n > 0 && cols > 1 ? ` ${n}x${cols}` : ""}`, parts, count, micros, totalMs: (micros * count) / 1000, terabytes: bytes / micros / 1e6, teraflops: flops / micros / 1e6, share: bytes / bandwidth / (micros / 1e6) };
  }).filter(({ parts }) => parts === 7);
  const step_ms = spreadOf(elapsed.slice(3));
  record[name] = { step_ms, experts, launches: table };
  console.log(`\n${name}: ${step_ms.median.toFixed(3)} ms a step, ${experts} of ${numExperts} experts busy`);
  printTable(
    ["launch", "count", "us", "total ms", "TB/s", "of memory", "TFLOP/s"],
    table.map(({ kind, count, micros, totalMs, terabytes, share, teraflops }) => [
      kind, `${count}`, micros.toFixed(2), totalMs.toFixed(3), terabytes === 0 ? "" : terabytes.toFixed(2), terabytes === 0 ? "" : `${(100 * share).toFixed(0)} %`, terabytes === 0 ? "" : teraflops.toFixed(0),
    ]),
  );
}
if (flags.json !== undefined) await writeRecord(flags.json, "kernels/cuda-experts", { device: backend.info.description, model: flags.model.split("/").at(-1), layers: program.numLayers, context: CONTEXT, tables: record });
await backend.close();
