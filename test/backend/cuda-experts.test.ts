/**
 * Mixtures of experts on a machine that has a CUDA device: operations one by one against float64 arithmetic, then whole
 * steps of many sequences with the experts that the device chose (see `test/fidelity/cuda-experts.test.ts`).
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { CudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { siteKinds } from "../../src/backend/cuda/lower-program.ts";
import { asPageId, asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import type { Step, StepSequence } from "../../src/core/step.ts";
import type { AdapterWeights, Replacement } from "../../src/lora/adapter-weights.ts";
import type { BufferId, Operation, Program } from "../../src/model/program.ts";
import { BOUND_FACTOR, referenceOf } from "../helpers/bfloat16-noise.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { EXPERT_SHAPES, expertProgram, MIXTRAL, QWEN } from "../helpers/expert-programs.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { runRouted } from "../helpers/routed-steps.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { numbers, randomAdapter, randomWeights } from "../helpers/tiny-program.ts";
import { distance, roundedMatrices } from "./cuda-distance.ts";
import { LIMITS, tokensOf } from "./cases.ts";
import { attach } from "../helpers/attach.ts";

const ROOM = { ...LIMITS, maxRows: 320, maxSequences: 64, numExtents: 96 + 16384, numPages: 96, numSlots: 8 };
/** Of sums in float32. */
const SUM_ERROR = 2 ** -14;
const FORMS = [undefined, "dora", "lora_bias"] as const;

if (noCudaReason !== null) console.warn(`the tests of experts on a CUDA device are skipped: ${noCudaReason}`);

/** Slots 0, 1 and 2 have these forms. Slots 3 and 4 replace routers and experts, 3 also what all rows share, 4 beside gains. */
const adaptersOf = (program: Program): readonly AdapterWeights[] => [
  ...FORMS.map((form, i) => randomAdapter(program, i + 1, { ranks: [16, 4, 9], dtype: "BF16", coverage: 0.8, ...(form === undefined ? {} : { form }) })),
  randomAdapter(program, 4, { ranks: [8], dtype: "BF16", coverage: 0.5, form: "modules_to_save", replaced: 0.8 }),
  { ...randomAdapter(program, 5, { ranks: [3, 20], dtype: "BF16", coverage: 0.5, form: "dora" }), replacements: ownExperts(program, 6) },
];

/** Every router, in numbers that bfloat16 does not hold, and most modules of experts. */
function ownExperts(program: Program, seed: number): readonly Replacement[] {
  const kinds = siteKinds(program);
  const of = (kind: "router" | "expert", dtype: "F32" | "BF16", replaced: number): readonly Replacement[] =>
    randomAdapter(program, seed, { ranks: [1], dtype, form: "modules_to_save", replaced }).replacements!.filter(({ site }) => kinds[site] === kind);
  return [...of("router", "F32", 1), ...of("expert", "BF16", 0.8)].toSorted((one, other) => one.site - other.site);
}

async function openWith(program: Program, adapters: readonly AdapterWeights[]): Promise<CudaBackend> {
  const backend = (await openCuda({ ...ROOM, program, weights: randomWeights(program, 5), format: "bfloat16" })) as CudaBackend;
  for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
  return backend;
}

/** Rows of up to one sequence for each of `slots`, -1 being the base model, one row each where `rows` is the number of slots. */
function stepOf(rows: number, slots: readonly number[]): Step {
  const own = slots.slice(0, rows).toSorted((a, b) => a - b);
  const sample = { sampling: samplingWith(), counter: 0, adjustments: [] };
  let next = 0;
  const sequences = own.map((slot, i): StepSequence => {
    const count = Math.floor(rows / own.length) + (i < rows % own.length ? 1 : 0);
    const pages = Array.from({ length: Math.ceil(count / 64) }, () => asPageId(next++));
    return { tokens: tokensOf(count, 61, i), position: 0, pages, slot: slot < 0 ? NO_SLOT : asSlotId(slot), sample };
  });
  return { sequences };
}

describe.skipIf(noCudaReason !== null).each(Object.entries({
  "eight experts": { ...MIXTRAL, hidden_size: 256, intermediate_size: 192, num_local_experts: 8, num_hidden_layers: 1 },
  "a hundred and thirty experts": { ...QWEN, hidden_size: 128, moe_intermediate_size: 72, num_experts: 130, num_experts_per_tok: 8, num_hidden_layers: 1 },
  "odd widths": { ...MIXTRAL, hidden_size: 34, intermediate_size: 13, num_local_experts: 7, num_experts_per_tok: 3, num_hidden_layers: 1 },
}))("cuda: one operation of %s", (_, changes) => {
  const program = expertProgram(changes);
  const weights = randomWeights(program, 5);
  // Matrices are bfloat16 in both.
  const exact = new ReferenceExecutor(program, roundedMatrices(program, weights));
  const rounded = new ReferenceExecutor(program, weights, "bfloat16");
  const adapters = adaptersOf(program);
  let backend: CudaBackend;
  beforeAll(async () => void (backend = await openWith(program, adapters)));
  afterAll(() => backend?.close());

  const named = (name: string): BufferId => program.buffers.findIndex((buffer) => buffer.name === name);
  const widthOf = (name: string): number => program.buffers[named(name)]!.width;
  const launches = program.operations.filter(({ kind }) => kind !== "headNorm" && kind !== "gather");
  const indexOf = (kind: Operation["kind"], among: readonly Operation[] = program.operations): number => among.findIndex((each) => each.kind === kind);

  /** Random buffers; what routers and the residual stream hold is float32, all else bfloat16 on both sides. */
  function randomBuffers(rows: number): Float64Array[] {
    const random = numbers(rows);
    return program.buffers.map(({ name, width, rows: kind }) => {
      const count = { step: rows, sampled: rows, routed: rows * program.routing!.topK }[kind] * width;
      const values = Float32Array.from({ length: count }, () => 2 * random());
      if (!["hidden", "router_logits", "routes", "logits"].includes(name)) {
        const bits = new Uint32Array(values.buffer);
        bits.forEach((word, i) => (bits[i] = word & 0xffff0000));
      }
      return Float64Array.from(values);
    });
  }

  /** Runs operations `from` to `to` on rows of several slots, on the device and in the reference, and compares each slot's rows of `output`. */
  async function compare(from: Operation["kind"], to: Operation["kind"], rows: number, slots: readonly number[], inputs: readonly string[], output: string, bounded: "bfloat16" | "float32") {
    const step = stepOf(rows, slots);
    const buffers = randomBuffers(rows);
    const operations = program.operations.slice(indexOf(from), indexOf(to) + 1);
    const first = indexOf(from, launches);
    const given = inputs.map((name) => ({ buffer: named(name), values: Float32Array.from(buffers[named(name)]!) }));
    const { buffers: got } = await backend.runLaunches(step, first, indexOf(to, launches) - first + 1, given, [named(output)]);
    let row = 0;
    for (const { tokens, slot } of step.sequences) {
      const of = (values: Float64Array, width: number, each: number): Float64Array => values.slice(row * width * each, (row + tokens.length) * width * each);
      const outputOf = (reference: ReferenceExecutor): Float64Array => {
        const own = buffers.map((values, id) => of(values, program.buffers[id]!.width, program.buffers[id]!.rows === "routed" ? program.routing!.topK : 1));
        reference.runOperations(operations, Array.from(tokens), own, slot === NO_SLOT ? null : adapters[slot]!);
        return own[named(output)]!;
      };
      const wanted = outputOf(exact);
      const bound = (bounded === "float32" ? 0 : BOUND_FACTOR * distance(outputOf(rounded), wanted)) + SUM_ERROR;
      const error = distance(of(Float64Array.from(got[0]!), widthOf(output), 1), wanted);
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${from} to ${to}, ${rows} rows, slot ${slot}: ${error.toExponential(1)} of ${bound.toExponential(1)}`);
      expect(error).toBeLessThan(bound);
      row += tokens.length;
    }
  }

  const mixed = Array.from({ length: 64 }, (_unused, i) => [-1, 0, 0, 1, 2, -1, 3, 4, 3, 4][i % 10]!);
  const onePerSlot = [-1, 0, 1, 2, 3, 4];

  // Up to 8, 16, 32 and 64 rows, and above, products have tiles of other sizes; above 64 rows a second kernel sorts rows.
  test.each([1, 8, 9, 17, 33, 64, 65, 200, 300])("experts of %d rows of the base", (rows) =>
    compare("route", "combine", rows, [-1], ["normed", "router_logits", "hidden"], "hidden", "bfloat16"));
  test.each([6, 40, 150, 300])("experts of %d rows of every adapter", (rows) =>
    compare("route", "combine", rows, onePerSlot, ["normed", "router_logits", "hidden"], "hidden", "bfloat16"));

  test.each([1, 5, 64, 65, 300])("logits of the router are those of float32 arithmetic, adapters' too: %d rows", (rows) => {
    const { kind } = program.operations[indexOf("route") - 1]!;
    expect(kind).toBe("linear");
    return compareRouter(rows, rows === 1 ? [2] : onePerSlot);
  });
  // Above 64 rows an adapter has several tiles.
  test.each([1, 9, 64, 200])("logits of a router that an adapter has of its own are those of float32 arithmetic: %d rows", (rows) => compareRouter(rows, [4]));
  test.each([1, 64, 200])("experts that an adapter has of its own: %d rows", (rows) =>
    compare("route", "combine", rows, [4], ["normed", "router_logits", "hidden"], "hidden", "bfloat16"));

  async function compareRouter(rows: number, slots: readonly number[]): Promise<void> {
    const step = stepOf(rows, slots);
    const buffers = randomBuffers(rows);
    const router = program.operations[indexOf("route") - 1]!;
    const { buffers: got } = await backend.runLaunches(step, indexOf("route", launches) - 1, 1, [{ buffer: named("normed"), values: Float32Array.from(buffers[named("normed")]!) }], [named("router_logits")]);
    const width = widthOf("router_logits");
    let row = 0;
    for (const { tokens, slot } of step.sequences) {
      const own = buffers.map((values, id) => values.slice(row * program.buffers[id]!.width, (row + tokens.length) * program.buffers[id]!.width));
      exact.runOperations([router], Array.from(tokens), own, slot === NO_SLOT ? null : adapters[slot]!);
      expect(distance(got[0]!.subarray(row * width, (row + tokens.length) * width), own[named("router_logits")]!)).toBeLessThan(1e-5);
      row += tokens.length;
    }
  }

  test.each([5, 70])("a choice is by the largest logits, by number where they are equal, and of %d rows none but those that are not finite has NaN", async (rows) => {
    const { numExperts, topK } = program.routing!;
    const buffers = randomBuffers(rows);
    const logits = buffers[named("router_logits")]!;
    // All equal, then a NaN, then an infinity.
    logits.fill(0.5, numExperts, 2 * numExperts);
    logits[2 * numExperts + 3] = Number.NaN;
    logits[3 * numExperts + 1] = Number.POSITIVE_INFINITY;
    const { buffers: got } = await backend.runLaunches(stepOf(rows, [-1]), indexOf("route", launches), 1, [{ buffer: named("router_logits"), values: Float32Array.from(logits) }], [named("routes")]);
    exact.runOperations([program.operations[indexOf("route")]!], Array.from({ length: rows }, () => 0), buffers);
    for (let row = 0; row < rows; row++) {
      const mine = got[0]!.subarray(row * 2 * topK, (row + 1) * 2 * topK);
      const experts = [...mine.subarray(0, topK)];
      expect(new Set(experts).size).toBe(topK);
      expect(experts.every((expert) => expert >= 0 && expert < numExperts)).toBe(true);
      if (row === 2 || row === 3) {
        expect(mine.subarray(topK).every(Number.isNaN)).toBe(true);
        continue;
      }
      const wanted = buffers[named("routes")]!.subarray(row * 2 * topK, (row + 1) * 2 * topK);
      expect(experts).toEqual([...wanted.subarray(0, topK)]);
      for (let j = topK; j < 2 * topK; j++) expect(mine[j]!).toBeCloseTo(wanted[j]!, 6);
    }
  });

  // Of 37 rows a graph's kernels see 48.
  test.each([37, 64])("%d rows of many adapters and of the base, a sequence each, get their own", (rows) => compare("route", "combine", rows, mixed, ["normed", "router_logits", "hidden"], "hidden", "bfloat16"));
});

interface Job {
  readonly tokens: readonly number[];
  readonly slot: number;
}

/** All but the last token of every job in one step, then a decode step; each job's answer is compared with float64 arithmetic. */
async function runJobs(backend: CudaBackend, program: Program, adapters: readonly AdapterWeights[], jobs: readonly Job[]): Promise<void> {
  const weights = randomWeights(program, 5);
  const sorted = jobs.toSorted((a, b) => a.slot - b.slot);
  const sample = { sampling: samplingWith({ logprobs: 20 }), counter: 0, adjustments: [] };
  let page = 5;
  const placed = sorted.map((job) => ({ ...job, pages: Array.from({ length: Math.ceil(job.tokens.length / 64) }, () => asPageId(page++)), experts: [] as number[][][] }));
  const stepWith = (part: (tokens: readonly number[]) => readonly number[]): Step => ({
    sequences: placed.flatMap(({ tokens, slot, pages }): StepSequence[] => {
      const own = part(tokens);
      return own.length === 0 ? [] : [{ tokens: own, position: own.length === 1 ? tokens.length - 1 : 0, pages, slot: slot < 0 ? NO_SLOT : asSlotId(slot), sample }];
    }),
  });
  const decode = stepWith((tokens) => tokens.slice(-1));
  const steps = [stepWith((tokens) => (tokens.length > 2 ? tokens.slice(0, -1) : [])), decode].filter(({ sequences }) => sequences.length > 0);
  const usable = placed.filter(({ tokens }) => tokens.length > 2 || tokens.length === 1);
  expect(usable.length).toBe(placed.length);
  let logits: readonly Float64Array[] = [];
  for (const step of steps) {
    const routed = await runRouted(backend, program, step);
    let row = 0;
    for (const job of placed) {
      const count = step === decode ? 1 : Math.max(0, job.tokens.length - 1);
      routed.experts.forEach((rows, layer) => (job.experts[layer] ??= []).push(...rows.slice(row, row + count).map((each) => [...each])));
      row += count;
    }
    ({ logits } = routed);
  }
  const { sampled } = await backend.run(decode);
  const references = placed.map((job) =>
    referenceOf(program, weights, job.slot < 0 ? null : adapters[job.slot]!, job.tokens, [0], 0, (layer, row) => job.experts[layer]![row]));
  const bound = Math.max(...references.map((reference) => reference.bound));
  references.forEach(({ steps: [wanted], routes }, i) => {
    const answer = logSoftmax(logits[i]!);
    // The same kernels, from a graph.
    for (const { id, logprob } of sampled[i]!.top) expect(Math.abs(logprob - answer[id]!)).toBeLessThan(1e-4);
    const top = [...answer.keys()].sort((a, b) => answer[b]! - answer[a]!).slice(0, 20);
    const error = Math.max(...top.map((id) => Math.abs(answer[id]! - wanted!.logprobs[id]!)));
    if (process.env["SHOW_ERRORS"] !== undefined) console.log(`slot ${placed[i]!.slot}, ${placed[i]!.tokens.length} tokens: ${error.toFixed(4)} of ${bound.toFixed(4)}`);
    expect(error).toBeLessThan(bound);
    expect(Math.min(...routes.margins)).toBeGreaterThan(-routes.bound);
  });
}

describe.skipIf(noCudaReason !== null)("cuda: mixtures of experts", () => {
  test.each(Object.keys(EXPERT_SHAPES))("are near float64 arithmetic, with and without adapters: %s", async (name) => {
    const program = expertProgram(EXPERT_SHAPES[name]!);
    const adapters = adaptersOf(program);
    const backend = await openWith(program, adapters);
    await runJobs(backend, program, adapters, [-1, 0, 1, 2, 3, 4].map((slot) => ({ tokens: tokensOf(20 + slot, program.vocabSize, slot + 8), slot })));
    await backend.close();
  });

  test("rows keep their answers beside any others", async () => {
    const program = expertProgram({ ...QWEN, hidden_size: 64, moe_intermediate_size: 40, num_experts: 12, num_hidden_layers: 3, mlp_only_layers: [1], norm_topk_prob: true });
    const adapters = [
      ...adaptersOf(program),
      randomAdapter(program, 7, { ranks: [128], dtype: "BF16", coverage: 0.3 }),
      randomAdapter(program, 8, { ranks: [2, 64], coverage: 0.5 }),
    ];
    const backend = await openWith(program, adapters);
    const job = fc.record({ length: fc.integer({ min: 3, max: 40 }), slot: fc.integer({ min: -1, max: 6 }), seed: fc.nat(1000) });
    await fc.assert(
      fc.asyncProperty(fc.array(job, { minLength: 1, maxLength: 8 }), (specs) =>
        runJobs(backend, program, adapters, specs.map(({ length, slot, seed }) => ({ tokens: tokensOf(length, program.vocabSize, seed), slot })))),
      { numRuns: 8, seed: 20 },
    );
    await backend.close();
  });

  test("of an adapter's own are multiplied in graphs of a shape that was captured before it came", async () => {
    const program = expertProgram({ ...QWEN, num_hidden_layers: 2 });
    // The first of a layer's sites has none.
    const all = ownExperts(program, 6).filter(({ site }) => program.sites[site]!.expert !== 0);
    const layers = [0, 1].map((layer) => all.filter(({ site }) => program.sites[site]!.layer === layer));
    const adapters = layers.map((replacements, i): AdapterWeights => ({ ...randomAdapter(program, i + 1, { ranks: [4], dtype: "BF16" }), replacements }));
    const backend = await openWith(program, adapters.slice(0, 1));
    const jobsOf = (slots: readonly number[]): Job[] => slots.map((slot) => ({ tokens: tokensOf(12 + slot, program.vocabSize, slot + 8), slot }));
    await runJobs(backend, program, adapters, jobsOf([-1, 0]));
    await attach(backend, asSlotId(1), await backend.stage(adapters[1]!));
    await runJobs(backend, program, adapters, jobsOf([-1, 1]));
    await runJobs(backend, program, adapters, jobsOf([-1, 0, 1]));
    await backend.close();
  });

  test("whose router is not finite are flagged, and others are answered", async () => {
    const program = expertProgram(QWEN);
    const weights = randomWeights(program, 5);
    const overflowing = { ...weights, readRows: (tensor: string, row: number, count: number, target: Uint8Array) => {
      weights.readRows(tensor, row, count, target);
      if (tensor.endsWith("mlp.gate.weight")) new Float32Array(target.buffer, target.byteOffset, count * program.hiddenSize).fill(3e38);
    } };
    const backend = await openCuda({ ...ROOM, program, weights: overflowing, format: "bfloat16" });
    const { sampled } = await backend.run(stepOf(3, [-1]));
    expect(sampled).toEqual([null]);
    await backend.close();
  });
});
