/**
 * The CUDA engine's operations one by one, each as a step would run it, on a machine that has a device.
 *
 * Inputs are the same numbers on both sides. A device is held to `BOUND_FACTOR` times what rounding to bfloat16, at the
 * places where the engine rounds, changes in float64 arithmetic, plus what float32 sums may; errors count against a
 * number's own size and the root mean square of all.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { CudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { asPageId, asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { Step, StepSequence } from "../../src/core/step.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import type { BufferId, Operation, Program } from "../../src/model/program.ts";
import { attach } from "../helpers/attach.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { BOUND_FACTOR } from "../helpers/bfloat16-noise.ts";
import { logSoftmax, ReferenceExecutor, roundToBfloat16 } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { numbers, randomAdapter, randomMatrix, randomWeights, type TinyShape, tinyProgram } from "../helpers/tiny-program.ts";
import { LIMITS, tokensOf } from "./cases.ts";
import { distance, roundedMatrices } from "./cuda-distance.ts";

/** Of sums in float32. */
const SUM_ERROR = 2 ** -14;
const ROOM = { ...LIMITS, maxRows: 512, maxSequences: 256, numExtents: 320 + 8192, numPages: 320, numSlots: 8 };
const SHAPE: TinyShape = { hidden: 256, layers: 2, heads: 8, kvHeads: 2, headDim: 64, ffn: 384, vocab: 500, bias: true, qkNorm: true, maxContext: 4096 };
/** Up to 64 rows adapters are read with the weights, up to 256 they leave deltas, above activation and rotation add them. */
const ROWS = [1, 5, 33, 64, 65, 200, 300] as const;

type Pair = [exact: Float64Array, rounded: Float64Array];

/** Operations that have a launch of their own; the others are part of the one behind them. */
const launches = ({ kind }: Operation): boolean => kind !== "headNorm" && kind !== "gather";

interface Part {
  readonly operations: readonly Operation[];
  readonly first: number;
  readonly count: number;
}

/** The operations from the `nth` of a kind up to and with the next of another kind. */
function partOf(program: Program, nth: number, from: Operation["kind"], to: Operation["kind"] = from): Part {
  const starts = program.operations.flatMap(({ kind }, i) => (kind === from ? [i] : []));
  const start = starts[nth < 0 ? starts.length + nth : nth]!;
  const end = program.operations.findIndex(({ kind }, i) => i >= start && kind === to);
  const operations = program.operations.slice(start, end + 1);
  return { operations, first: program.operations.slice(0, start).filter(launches).length, count: operations.filter(launches).length };
}

/** A decode step, one row of each sequence, or a prompt. */
const FORMS = ["decode", "prefill"] as const;

function stepOf(form: (typeof FORMS)[number], tokens: readonly number[], slot: SlotId): Step {
  const sample = { sampling: samplingWith(), counter: 0, adjustments: [] };
  const one = (own: readonly number[], pages: readonly number[]): StepSequence => ({ tokens: own, position: 0, pages: pages.map(asPageId), slot, sample });
  if (form === "decode") return { sequences: tokens.map((token, i) => one([token], [i])) };
  return { sequences: [one(tokens, Array.from({ length: Math.ceil(tokens.length / 64) }, (_, i) => 7 * i))] };
}

function expectNear(got: ArrayLike<number>, exact: Float64Array, rounded: Float64Array): void {
  const bound = BOUND_FACTOR * distance(rounded, exact) + SUM_ERROR;
  const error = distance(got, exact);
  if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${error.toExponential(1)}, ${(error / bound).toFixed(3)} of the bound`);
  expect(error).toBeLessThan(bound);
}

if (noCudaReason !== null) console.warn(`the tests of single CUDA operations are skipped: ${noCudaReason}`);

describe.skipIf(noCudaReason !== null)("cuda: one operation", () => {
  const program = tinyProgram(SHAPE);
  const weights = randomWeights(program, 5);
  // Matrices are bfloat16 in both.
  const exact = new ReferenceExecutor(program, roundedMatrices(program, weights));
  const rounded = new ReferenceExecutor(program, weights, "bfloat16");
  const adapters = ([undefined, "dora", "lora_bias", "base_bias", "modules_to_save", "head_lora", "embedding_lora", "trainable_tokens"] as const).map((adapterForm) =>
    randomAdapter(program, 1, { ranks: [16, 4, 9], dtype: "BF16", coverage: 0.8, replaced: 1, ...(adapterForm === undefined ? {} : { form: adapterForm }) }),
  );
  const adapter = adapters[0]!;
  const [whole, headLora, embeddingLora, tokenRows] = adapters.slice(4) as [AdapterWeights, AdapterWeights, AdapterWeights, AdapterWeights];
  let backend: CudaBackend;
  beforeAll(async () => {
    backend = (await openCuda({ ...ROOM, program, weights, format: "bfloat16" })) as CudaBackend;
    for (const [slot, each] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(each));
  });
  afterAll(() => backend?.close());

  const named = (name: string): BufferId => program.buffers.findIndex((buffer) => buffer.name === name);
  const widthOf = (name: string): number => program.buffers[named(name)]!.width;

  /** Random buffers of `rows` rows; only the residual stream and the logits are more exact than bfloat16. */
  function randomBuffers(rows: number, sampledRows: number, seed: number): Float64Array[] {
    const random = numbers(seed);
    return program.buffers.map(({ name, width, rows: kind }) => {
      const values = Float64Array.from(Float32Array.from({ length: (kind === "sampled" ? sampledRows : rows) * width }, () => 2 * random()));
      return ["residual", "logits"].includes(name) ? values : roundToBfloat16(values);
    });
  }

  /** What operations leave in a buffer; `buffers` stay as they are. */
  const outputOf =
    (operations: readonly Operation[], tokens: readonly number[], buffers: readonly Float64Array[], output: string, changed: AdapterWeights | null = null) =>
    (reference: ReferenceExecutor): Float64Array => {
      const own = buffers.map((values) => values.slice());
      reference.runOperations(operations, tokens, own, changed);
      return own[named(output)]!;
    };

  /** Runs a part on the device and in the reference, from the same numbers in `inputs`, and compares `output`. */
  async function compare(part: Part, form: (typeof FORMS)[number], rows: number, inputs: readonly string[], output: string, changed: AdapterWeights | null = null): Promise<void> {
    const tokens = tokensOf(rows, program.vocabSize, rows);
    const step = stepOf(form, tokens, changed === null ? NO_SLOT : asSlotId(adapters.indexOf(changed)));
    const buffers = randomBuffers(rows, form === "decode" ? rows : 1, rows + 1);
    const given = inputs.map((name) => ({ buffer: named(name), values: Float32Array.from(buffers[named(name)]!) }));
    const { buffers: got } = await backend.runLaunches(step, part.first, part.count, given, [named(output)]);
    expectNear(got[0]!, ...([exact, rounded].map(outputOf(part.operations, tokens, buffers, output, changed)) as Pair));
  }

  test.each([1, 33, 300])("embedding of %d rows is the matrix's rows to the bit", async (rows) => {
    const part = partOf(program, 0, "embed");
    const tokens = tokensOf(rows, program.vocabSize, 3);
    const { buffers: got } = await backend.runLaunches(stepOf("prefill", tokens, NO_SLOT), part.first, part.count, [], [named("residual")]);
    expect([...got[0]!]).toEqual([...outputOf(part.operations, tokens, randomBuffers(rows, 1, 4), "residual")(exact)]);
  });

  for (const rows of ROWS) {
    for (const form of FORMS) {
      if (form === "decode" && rows > ROOM.maxSequences) continue;
      describe(`${form} of ${rows} rows`, () => {
        test("norm", () => compare(partOf(program, 0, "rmsNorm"), form, rows, ["residual"], "normed"));
        // The bias is added by whoever reads the output: the rotation, and the activation.
        test("linear", () => {
          const part = partOf(program, 0, "linear");
          return compare({ ...part, operations: part.operations.map((operation) => ({ ...operation, bias: null }) as Operation) }, form, rows, ["normed"], "qkv");
        });
        test("linear, bias, activation", () => compare(partOf(program, 2, "linear", "siluMul"), form, rows, ["normed"], "activated"));
        test("linear onto the residual stream, bias, norm", () => compare(partOf(program, 1, "linear", "rmsNorm"), form, rows, ["attended", "residual"], "normed"));
        test("logits", () => {
          const part = partOf(program, -1, "linear");
          return compare(part, form, rows, ["lastNormed"], "logits");
        });
        test("linear with an adapter, bias, activation", () => compare(partOf(program, 2, "linear", "siluMul"), form, rows, ["normed"], "activated", adapter));
        test("linear with an adapter onto the residual stream, bias, norm", () =>
          compare(partOf(program, 1, "linear", "rmsNorm"), form, rows, ["attended", "residual"], "normed", adapter));
        test.each([["the head's LoRA", headLora], ["a whole head", whole], ["tokens of the head", tokenRows]] as const)("logits with %s", (_, changed) =>
          compare(partOf(program, -1, "linear"), form, rows, ["lastNormed"], "logits", changed));
        test.each([["the embedding's LoRA", embeddingLora], ["a whole embedding", whole], ["tokens", tokenRows]] as const)("embedding with %s", (_, changed) =>
          compare(partOf(program, 0, "embed"), form, rows, [], "residual", changed));
        test("norm of the adapter's own", () => compare(partOf(program, 0, "rmsNorm"), form, rows, ["residual"], "normed", whole));
        test.each([1, 2, 3, 4])("both with the forms of adapter %d", async (which) => {
          await compare(partOf(program, 2, "linear", "siluMul"), form, rows, ["normed"], "activated", adapters[which]!);
          await compare(partOf(program, 1, "linear", "rmsNorm"), form, rows, ["attended", "residual"], "normed", adapters[which]!);
        });
      });
    }
  }

  test.each([1, 40, 64, 65, 130, 300])("linear, bias, norms of heads, rotation and attention over a prompt of %d rows", (rows) =>
    compare(partOf(program, 0, "linear", "attention"), "prefill", rows, ["normed"], "attended"));

  test.each([1, 40, 130, 300])("the same with an adapter, %d rows", (rows) => compare(partOf(program, 0, "linear", "attention"), "prefill", rows, ["normed"], "attended", adapter));

  test.each([1, 40, 130, 300])("the same with matrices and norms of the adapter's own, %d rows", (rows) => compare(partOf(program, 0, "linear", "attention"), "prefill", rows, ["normed"], "attended", whole));

  test.each([2, 64, 65, 130, 300])("attention of one row over %d positions in pages", async (length) => {
    const part = partOf(program, 0, "ropeKvWrite", "attention");
    const tokens = tokensOf(length, program.vocabSize, 3);
    const buffers = randomBuffers(length, 1, 6);
    const width = widthOf("qkv");
    const qkv = Float32Array.from(buffers[named("qkv")]!);
    const { sequences } = stepOf("prefill", tokens, NO_SLOT);
    const whole = sequences[0]!;
    const last = length - 1;
    const run = (sequence: StepSequence, values: Float32Array) => backend.runLaunches({ sequences: [sequence] }, part.first, part.count, [{ buffer: named("qkv"), values }], [named("attended")]);
    await run({ ...whole, tokens: tokens.slice(0, last) }, qkv.subarray(0, last * width));
    const { buffers: got } = await run({ ...whole, tokens: [tokens[last]!], position: last }, qkv.subarray(last * width));
    // What the linear operation before left to be added.
    // The rotation adds the bias that the linear operation before it left: here a product of zeros, onto what is there.
    buffers[named("normed")]!.fill(0);
    const bias = { ...partOf(program, 0, "linear").operations[0]!, accumulate: true } as Operation;
    const operations = [bias, ...partOf(program, 0, "linear", "attention").operations.slice(1)];
    const wanted = [exact, rounded].map(outputOf(operations, tokens, buffers, "attended")).map((values) => values.slice(last * widthOf("attended")));
    expectNear(got[0]!, ...(wanted as Pair));
  });

  test("sampling takes the largest logit, and reports log-probabilities of the raw distribution", async () => {
    const part = partOf(program, 0, "sample");
    const rows = 6;
    const logits = randomBuffers(rows, rows, 9)[named("logits")]!;
    const step = stepOf("decode", tokensOf(rows, program.vocabSize, 1), NO_SLOT);
    const sequences = step.sequences.map((sequence) => ({ ...sequence, sample: { ...sequence.sample!, sampling: samplingWith({ temperature: 0, logprobs: 5 }) } }));
    const { sampled } = await backend.runLaunches({ sequences }, part.first, part.count, [{ buffer: named("logits"), values: Float32Array.from(logits) }], []);
    for (let row = 0; row < rows; row++) {
      const wanted = logSoftmax(logits.slice(row * program.vocabSize, (row + 1) * program.vocabSize));
      const order = [...wanted.keys()].sort((a, b) => wanted[b]! - wanted[a]!);
      expect(sampled[row]).toMatchObject({ id: order[0], rank: 1 });
      expect(sampled[row]!.top.map(({ id }) => id)).toEqual(order.slice(0, 5));
      for (const { id, logprob } of sampled[row]!.top) expect(Math.abs(logprob - wanted[id]!)).toBeLessThan(1e-4);
    }
  });

  test("launches, buffers and sizes that the program does not have are refused", async () => {
    const step = stepOf("decode", [1], NO_SLOT);
    const run = (first: number, count: number, buffer: number, length: number, output: number) =>
      backend.runLaunches(step, first, count, [{ buffer, values: new Float32Array(length) }], [output]);
    await expect(run(-1, 1, 0, widthOf("residual"), 0)).rejects.toThrow("there are no such launches");
    await expect(run(0, 1000, 0, widthOf("residual"), 0)).rejects.toThrow("there are no such launches");
    await expect(run(0, 1, 99, 1, 0)).rejects.toThrow("there is no buffer 99");
    await expect(run(0, 1, 0, 3, 0)).rejects.toThrow(`buffer 0 takes 1 rows of ${widthOf("residual")} numbers`);
    await expect(run(0, 1, 0, widthOf("residual"), -2)).rejects.toThrow("there is no buffer -2");
  });
});

/** Rows of a large step: a run of one sequence for each adapter, and rows of the base between them. */
interface Mixed {
  /** Of the adapters; base rows where it is below 0. */
  readonly adapter: number;
  readonly rows: number;
}

/** Runs that begin and end anywhere in 64 rows, several within 64, and of one row. The second has an adapter of more ranks than are added on the way. */
const MIXES: readonly (readonly Mixed[])[] = [
  [{ adapter: 0, rows: 37 }, { adapter: 1, rows: 1 }, { adapter: -1, rows: 45 }, { adapter: 2, rows: 130 }, { adapter: 4, rows: 65 }, { adapter: -1, rows: 3 }],
  [{ adapter: -1, rows: 17 }, { adapter: 3, rows: 15 }, { adapter: 4, rows: 16 }, { adapter: -1, rows: 200 }, { adapter: 0, rows: 33 }],
  [{ adapter: 1, rows: 300 }],
  [{ adapter: -1, rows: 256 }, { adapter: 2, rows: 1 }],
];

/** Whose activation and rotation add B · (A · x) on their way, and others, for which it comes before the product. */
const MIXED_SHAPES: Readonly<Record<string, TinyShape>> = {
  "heads of 64, biases, norms on q and k": { hidden: 128, layers: 1, heads: 6, kvHeads: 2, headDim: 64, ffn: 360, vocab: 100, bias: true, qkNorm: true, maxContext: 4096 },
  "heads of 128, no biases": { hidden: 200, layers: 1, heads: 2, kvHeads: 1, headDim: 128, ffn: 520, vocab: 100, maxContext: 4096 },
  "heads of 96, an odd width": { hidden: 96, layers: 1, heads: 2, kvHeads: 1, headDim: 96, ffn: 101, vocab: 100, maxContext: 4096 },
  "heads rotated in part": { hidden: 96, layers: 1, heads: 2, kvHeads: 1, headDim: 64, rotaryDim: 32, ffn: 96, vocab: 100, maxContext: 4096 },
};

/** One delta over both halves of a layer's gate and up, as a fused adapter has it. */
function fusedGateUp(program: Program, from: AdapterWeights, rank: number): AdapterWeights {
  const site = program.sites.findIndex(({ name }) => name.endsWith("gateUp"));
  const random = numbers(rank);
  const { inWidth, outWidth } = program.sites[site]!;
  const fused = { site, offset: 0, width: outWidth, rank, scale: 0.7, a: randomMatrix(rank, inWidth, 1.7 / Math.sqrt(inWidth), "BF16", random), b: randomMatrix(outWidth, rank, 1.2 / Math.sqrt(rank), "BF16", random) };
  return { ...from, deltas: [...from.deltas.filter((delta) => delta.site < site), fused, ...from.deltas.filter((delta) => delta.site > site)] };
}

describe.skipIf(noCudaReason !== null).each(Object.keys(MIXED_SHAPES))("cuda: many rows of many adapters, %s", (key) => {
  const program = tinyProgram(MIXED_SHAPES[key]!);
  const weights = randomWeights(program, 6);
  const exact = new ReferenceExecutor(program, roundedMatrices(program, weights));
  const rounded = new ReferenceExecutor(program, weights, "bfloat16");
  const adapters = ([[16], [1, 130, 8], [4, 17, 64, 9], [130], [33, 2]] as const).map((ranks, i) =>
    randomAdapter(program, 50 + i, { ranks, dtype: "BF16", coverage: i === 0 ? 1 : 0.8 }));
  adapters[4] = fusedGateUp(program, adapters[4]!, 12);
  let backend: CudaBackend;
  beforeAll(async () => {
    backend = (await openCuda({ ...ROOM, program, weights, format: "bfloat16" })) as CudaBackend;
    for (const [slot, each] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(each));
  });
  afterAll(() => backend?.close());

  const named = (name: string): BufferId => program.buffers.findIndex((buffer) => buffer.name === name);

  /** Each run is a sequence of its own, so the reference computes them one by one. */
  async function compareMixed(part: Part, mix: readonly Mixed[], input: string, output: string): Promise<void> {
    const random = numbers(mix.length);
    const width = program.buffers[named(input)]!.width;
    let page = 0;
    const runs = mix.map(({ adapter, rows }, i) => ({
      adapter: adapters[adapter] ?? null,
      slot: adapter < 0 ? NO_SLOT : asSlotId(adapter),
      tokens: tokensOf(rows, program.vocabSize, i),
      values: roundToBfloat16(Float64Array.from(Float32Array.from({ length: rows * width }, () => 2 * random()))),
      pages: Array.from({ length: Math.ceil(rows / 64) }, () => asPageId(page++)),
    }));
    const sample = { sampling: samplingWith(), counter: 0, adjustments: [] };
    const sequences = runs.map(({ tokens, slot, pages }) => ({ tokens, position: 0, pages, slot, sample }));
    const given = Float32Array.from(runs.flatMap(({ values }) => [...values]));
    const { buffers: got } = await backend.runLaunches({ sequences }, part.first, part.count, [{ buffer: named(input), values: given }], [named(output)]);
    const wanted = [exact, rounded].map((reference) =>
      Float64Array.from(
        runs.flatMap(({ adapter, tokens, values }) => {
          const buffers = program.buffers.map((buffer, id) => (id === named(input) ? values.slice() : new Float64Array(tokens.length * buffer.width)));
          reference.runOperations(part.operations, tokens, buffers, adapter);
          return [...buffers[named(output)]!];
        }),
      ),
    );
    expectNear(got[0]!, ...(wanted as unknown as Pair));
  }

  test.each([...MIXES.keys()])("linear, bias, activation of mix %d", (i) => compareMixed(partOf(program, 2, "linear", "siluMul"), MIXES[i]!, "normed", "activated"));
  test.each([...MIXES.keys()])("linear, norms of heads, rotation and attention of mix %d", (i) => compareMixed(partOf(program, 0, "linear", "attention"), MIXES[i]!, "normed", "attended"));
});
