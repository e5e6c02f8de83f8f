/**
 * Where the time of a step goes on an NVIDIA device: each kind of launch over all layers, as one graph.
 *
 *   bun bench/kernels/cuda.ts [--model DIR] [--context N] [--json FILE]
 *
 * Share is of the time that the memory bus needs for the bytes of one launch, weights read once, activations as often
 * as they are touched.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { memoryRateOf } from "../../src/backend/cuda/memory-rate.ts";
import { LAUNCH, LAUNCH_OP, LAUNCH_WORDS } from "../../src/backend/cuda/layout.ts";
import { lowerProgram } from "../../src/backend/cuda/lower-program.ts";
import { asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { Step } from "../../src/core/step.ts";
import { openRig, randomAdapter, slotsOf } from "../lib/cuda-rig.ts";
import { printTable, writeRecord } from "../lib/record.ts";
import { attach } from "../../test/helpers/attach.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string", default: join(import.meta.dir, "../shapes/llama-3.1-8b") },
    context: { type: "string", default: "1024" },
    json: { type: "string" },
  },
});
const context = Number(flags.context);
const { program, backend, decode, prefill } = await openRig({ model: flags.model, maxRows: 8192, maxSequences: 256, context, numSlots: 40, adapterBytes: 8 * 2 ** 30 });
for (let slot = 0; slot < 32; slot++) await attach(backend, asSlotId(slot), await backend.stage(randomAdapter(program, slot, () => 16)));

const { launches } = lowerProgram(program);
const opName = (op: number): string => Object.entries(LAUNCH_OP).find(([, value]) => value === op)?.[0] ?? "?";
const bandwidth = memoryRateOf(backend.info.description) ?? Number.NaN;
const { numHeads, numKvHeads, headDim } = program.attention;

function describe(launch: number): { name: string; weightBytes: number; op: string } {
  const at = launch * LAUNCH_WORDS;
  const op = opName(launches[at + LAUNCH.op]!);
  const weight = program.weights[launches[at + LAUNCH.weight]!];
  if (op !== "linear" || weight === undefined) return { name: op, weightBytes: 0, op };
  return { name: `linear ${weight.rows}x${weight.cols}`, weightBytes: weight.rows * weight.cols * 2, op };
}

const ALL_PARTS = 7;
const PARTS: Readonly<Record<number, string>> = { 1: ", base only", 2: ", shrink only", 4: ", expand only" };

const base = (count: number): SlotId[] => Array.from({ length: count }, () => NO_SLOT);
const steps: { name: string; rows: number; step: Step; isPrefill?: boolean }[] = [
  ...[1, 32, 64, 128, 256].map((rows) => ({ name: `decode ${rows}`, rows, step: decode(base(rows)) })),
  { name: "decode 32, 32 rank 16", rows: 32, step: decode(slotsOf(32)) },
  { name: "decode 64, 8 rank 16", rows: 64, step: decode(slotsOf(8, 8)) },
  { name: "prefill 8x1024", rows: 8192, step: prefill(base(8), 1024), isPrefill: true },
  { name: "prefill 8x1024, 8 rank 16", rows: 8192, step: prefill(slotsOf(8), 1024), isPrefill: true },
];
const record: Record<string, unknown> = {};
for (const { name, rows, step, isPrefill } of steps) {
  // Activations are those of a real step: products of zeros take less power, and less time.
  await backend.run(step);
  const times = await backend.profile(step);
  const table = times.map(({ launch, parts, count, micros }) => {
    const { name, weightBytes, op } = describe(launch);
    const kind = `${name}${PARTS[parts] ?? ""}`;
    const bytes = op === "attention" && isPrefill !== true ? rows * context * 2 * numKvHeads * headDim * 2 : weightBytes;
    const flops = isPrefill === true ? (op === "linear" ? weightBytes * rows : op === "attention" ? 2 * rows * context * numHeads * headDim : 0) : 0;
    const perSecond = isPrefill === true ? flops / micros / 1e6 : bytes / micros / 1e6;
    return { kind, parts, count, micros, totalMs: (micros * count) / 1000, bytes, flops, perSecond, share: isPrefill === true ? Number.NaN : bytes / bandwidth / (micros / 1e6) };
  });
  record[name] = table;
  console.log(`\n${name}: ${table.reduce((sum, each) => sum + (each.parts === ALL_PARTS ? each.totalMs : 0), 0).toFixed(3)} ms in all`);
  printTable(
    ["launch", "count", "us", "total ms", isPrefill === true ? "TFLOP/s" : "TB/s", "of memory"],
    table.map(({ kind, count, micros, totalMs, perSecond, share }) => [
      kind, `${count}`, micros.toFixed(2), totalMs.toFixed(3), perSecond === 0 ? "" : perSecond.toFixed(2), Number.isNaN(share) || share === 0 ? "" : `${(100 * share).toFixed(0)} %`,
    ]),
  );
}
if (flags.json !== undefined) await writeRecord(flags.json, "kernels/cuda", { device: backend.info.description, context, tables: record });
await backend.close();
