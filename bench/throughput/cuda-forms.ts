/**
 * What forms of adapters beyond plain LoRA add to a decode step on an NVIDIA device, against the time that the memory bus needs for
 * their bytes.
 *
 *   bun bench/throughput/cuda-forms.ts [--model DIR] [--context N] [--json FILE]
 *
 * As `cuda.ts`: weights made up on the device, random tokens, pages scattered, steps given one ahead, cases in turn.
 */
import { join } from "node:path";
import { memoryRateOf } from "../../src/backend/cuda/memory-rate.ts";
import { asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import { adapterBytes, openRig, ownHead, randomAdapter, slotsOf } from "../lib/cuda-rig.ts";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { pace } from "../lib/pace.ts";
import { printTable, spreadOf, writeRecord } from "../lib/record.ts";
import { attach } from "../../test/helpers/attach.ts";

const ROWS = 32;
const ROUNDS = 5;
const STEPS_PER_ROUND = 20;

const flags = parseFlags({ model: join(import.meta.dir, "../shapes/llama-3.1-8b"), context: "1024", json: undefined });
const { model } = flags;
const context = integerIn("context", flags.context, 64, 65_536);
const { program, backend, decode, prefill } = await openRig({ model, maxRows: 8192, maxSequences: ROWS, context, numSlots: 26, adapterBytes: 10 * 2 ** 30 });
const perStep = Math.max(1, Math.floor(8192 / context));
for (let first = 0; first < ROWS; first += perStep) await backend.run(prefill(base(perStep), context));

/** Slots 0 to 7 plain, 8 to 15 DoRA, 16 to 23 the head by a delta, 24 and 25 a head of their own. */
const adapters: AdapterWeights[] = [
  ...Array.from({ length: 8 }, (_, i) => randomAdapter(program, 100 + i, () => 16)),
  ...Array.from({ length: 8 }, (_, i) => randomAdapter(program, 200 + i, () => 16, { hasMagnitudes: true })),
  ...Array.from({ length: 8 }, (_, i) => randomAdapter(program, 300 + i, () => 16, { onHead: true })),
  ownHead(program, 400),
  ownHead(program, 401),
];
for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));

function base(count: number): SlotId[] {
  return Array.from({ length: count }, () => NO_SLOT);
}
const cases: readonly { readonly name: string; readonly slots: readonly SlotId[] }[] = [
  { name: "base", slots: base(ROWS) },
  { name: "one rank 16", slots: slotsOf(1, ROWS) },
  { name: "one rank 16 with DoRA", slots: slotsOf(1, ROWS, 8) },
  { name: "8 of rank 16", slots: slotsOf(8, ROWS / 8) },
  { name: "8 of rank 16 with DoRA", slots: slotsOf(8, ROWS / 8, 8) },
  { name: "8 of rank 16 on the head alone", slots: slotsOf(8, ROWS / 8, 16) },
  { name: "a head of its own on 8 rows", slots: [...base(ROWS - 8), ...slotsOf(1, 8, 24)] },
  { name: "two heads of their own on 8 rows each", slots: [...base(ROWS - 16), ...slotsOf(2, 8, 24)] },
];

const times = new Map(cases.map(({ name }) => [name, [] as number[]]));
for (let round = 0; round <= ROUNDS; round++) {
  for (const { name, slots } of cases) {
    let left = STEPS_PER_ROUND;
    for await (const { wall } of pace(backend, ROWS, () => decode(slots))) {
      // The first round makes graphs and warms up.
      if (round > 0) times.get(name)!.push(wall);
      if (--left === 0) break;
    }
  }
}

const bandwidth = memoryRateOf(backend.info.description) ?? Number.NaN;
const baseMs = spreadOf(times.get("base")!).median;
const rows = cases.map(({ name, slots }) => {
  const bytes = [...new Set(slots)].filter((slot) => slot !== NO_SLOT).reduce((sum, slot) => sum + adapterBytes(adapters[slot]!), 0);
  const wall = spreadOf(times.get(name)!);
  return { name, wall, bytes, addedMs: wall.median - baseMs, bytesMs: (bytes / bandwidth) * 1000 };
});
console.log(`${backend.info.description}, ${ROWS} rows, ${context} tokens of context\n`);
printTable(
  ["case", "ms", "min", "max", "added ms", "bytes ms", "beyond bytes, of the base step"],
  rows.map(({ name, wall, addedMs, bytesMs }) => [
    name, wall.median.toFixed(3), wall.min.toFixed(3), wall.max.toFixed(3), addedMs.toFixed(3), bytesMs.toFixed(3), `${((100 * (addedMs - bytesMs)) / baseMs).toFixed(1)} %`,
  ]),
);
if (flags.json !== undefined) {
  await writeRecord(flags.json, "throughput/cuda-forms", { model: await Bun.file(join(model, "config.json")).json(), device: backend.info.description, context, rows: ROWS, bandwidth, cases: rows });
}
await backend.close();
