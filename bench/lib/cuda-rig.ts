/** A model of random weights on the device, random adapters, and steps over a filled KV cache. */
import { join } from "node:path";
import { cudaPageBytes, openCudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { asPageId, asSlotId, type SlotId } from "../../src/core/ids.ts";
import type { Step, StepSequence } from "../../src/core/step.ts";
import type { AdapterForm, AdapterMatrix, AdapterWeights, LoraDelta } from "../../src/lora/adapter-weights.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { type ModelConfig, parseModelConfig, readModelConfig } from "../../src/model/model-config.ts";
import type { Program } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";
import { samplingWith } from "../../test/helpers/sampling.ts";
import { randomBfloat16, randomSource } from "./random-model.ts";

export interface RigOptions {
  /** Directory with a `config.json`; no weights are read. */
  readonly model: string;
  /** Of the model, fewer than it has; all when left out. */
  readonly numLayers?: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  /** Positions of every sequence. */
  readonly context: number;
  readonly numSlots: number;
  readonly adapterBytes: number;
}

/** Of a model whose weights are made on the device. */
export const noWeights: WeightSource = {
  info: (tensor) => {
    throw new Error(`no tensor ${tensor}: weights are random`);
  },
  readRows: (tensor) => {
    throw new Error(`no tensor ${tensor}: weights are random`);
  },
};

async function shortened(model: string, numLayers: number): Promise<ModelConfig> {
  return parseModelConfig({ ...(await Bun.file(join(model, "config.json")).json()), num_hidden_layers: numLayers });
}

export type Rig = Awaited<ReturnType<typeof openRig>>;

export async function openRig(options: RigOptions) {
  const program = buildDecoderProgram(options.numLayers === undefined ? readModelConfig(options.model) : await shortened(options.model, options.numLayers));
  const pagesPerSequence = Math.ceil((options.context + 256) / 64);
  const backend = await openCudaBackend({
    program,
    weights: noWeights,
    format: "bfloat16",
    numThreads: 1,
    maxRows: options.maxRows,
    maxSequences: options.maxSequences,
    numExtents: options.maxSequences * pagesPerSequence + Math.ceil(options.adapterBytes / cudaPageBytes(program)),
    numPages: options.maxSequences * pagesPerSequence,
    numSlots: options.numSlots,
    randomSeed: 7,
  });
  const random = randomSource(3);
  const ids = (count: number): number[] => Array.from({ length: count }, () => Math.floor(random() * program.vocabSize));

  /** Tokens of sequence `index` from `position` on. */
  function sequence(index: number, position: number, tokens: readonly number[], slot: SlotId, sampled = true): StepSequence {
    const numPages = Math.ceil((position + tokens.length) / backend.info.pageTokens);
    return {
      tokens,
      position,
      // Pages of one sequence lie far apart, as they do after an hour of serving.
      pages: Array.from({ length: numPages }, (_, i) => asPageId(i * options.maxSequences + index)),
      slot,
      sample: sampled ? { sampling: samplingWith(), counter: 0, adjustments: [] } : null,
    };
  }

  /** One decode row per slot given, each at the end of its context. Slots must be sorted. */
  const decode = (slots: readonly SlotId[]): Step => ({ sequences: slots.map((slot, i) => sequence(i, options.context, ids(1), slot)) });
  /** One prompt per slot given. */
  const prefill = (slots: readonly SlotId[], length: number): Step => ({ sequences: slots.map((slot, i) => sequence(i, 0, ids(length), slot)) });

  return { program, backend, decode, prefill, sequence, ids };
}

const POOL_NUMBERS = 8 << 20;
let pool: Uint16Array | null = null;

/** Numbers of deviation 1; made once. */
const poolOfNumbers = (): Uint16Array => (pool ??= randomBfloat16(POOL_NUMBERS, 1, randomSource(11)));

export interface RandomAdapterOptions {
  /** Lengths of outputs as well, DoRA's. */
  readonly hasMagnitudes?: boolean;
  /** In place of all linear layers, the head alone. */
  readonly onHead?: boolean;
}

/** Adapters on all linear layers; their numbers are runs of one pool of random numbers, each at another place. */
export function randomAdapter(program: Program, seed: number, rankOf: (module: number) => number, { hasMagnitudes = false, onHead = false }: RandomAdapterOptions = {}): AdapterWeights {
  const random = randomSource(seed);
  const numbers = poolOfNumbers();
  const matrix = (rows: number, cols: number): AdapterMatrix => {
    const at = Math.floor(random() * (POOL_NUMBERS - rows * cols));
    return { dtype: "BF16", rows, cols, bytes: new Uint8Array(numbers.buffer, at * 2, rows * cols * 2) };
  };
  const deltas: LoraDelta[] = program.sites.flatMap(({ inWidth, modules, kind }, site) =>
    modules
      .filter(({ own }) => own && kind === (onHead ? "head" : undefined))
      .map(({ offset, width }, i) => {
        const rank = rankOf(i);
        // The pool's numbers have deviation 1; a delta is a tenth of its output.
        const delta = { site, offset, width, rank, scale: 0.1 / Math.sqrt(inWidth * rank), a: matrix(rank, inWidth), b: matrix(width, rank) };
        // Rows of the random weights have length 1.
        return hasMagnitudes ? { ...delta, magnitude: Float32Array.from({ length: width }, () => 0.8 + 0.4 * random()) } : delta;
      }),
  );
  const ranks = deltas.map(({ rank }) => rank);
  const numBytes = deltas.reduce((sum, { a, b, magnitude }) => sum + a.bytes.length + b.bytes.length + (magnitude?.byteLength ?? 0), 0);
  const forms: AdapterForm[] = [...(hasMagnitudes ? ["dora" as const] : []), ...(onHead ? ["head_lora" as const] : [])];
  return { digest: `${seed}`.padStart(64, "0"), deltas, forms, report: reportOf(ranks, numBytes) };
}

const reportOf = (ranks: readonly number[], numBytes: number): AdapterWeights["report"] => ({
  format: "peft",
  modules: [],
  dtypes: ["BF16"],
  numModules: ranks.length,
  maxRank: Math.max(0, ...ranks),
  minRank: ranks.length === 0 ? 0 : Math.min(...ranks),
  scaleRule: "alpha/rank",
  numBytes,
  warnings: [],
});

/** An adapter that is a head of its own. */
export function ownHead(program: Program, seed: number): AdapterWeights {
  const site = program.sites.findIndex(({ kind }) => kind === "head");
  const { inWidth, outWidth } = program.sites[site]!;
  const numbers = new Uint16Array(inWidth * outWidth);
  const source = poolOfNumbers();
  const first = Math.floor(randomSource(seed)() * source.length);
  for (let at = 0; at < numbers.length; at += source.length) numbers.set(source.subarray(0, Math.min(source.length, numbers.length - at)), at);
  numbers.copyWithin(0, first);
  const values: AdapterMatrix = { dtype: "BF16", rows: outWidth, cols: inWidth, bytes: new Uint8Array(numbers.buffer) };
  return { digest: `${seed}`.padStart(64, "0"), deltas: [], replacements: [{ site, part: "weight", form: "modules_to_save", rows: 0, values }], forms: ["modules_to_save"], report: reportOf([], values.bytes.length) };
}

/** Bytes of the adapter's matrices, at its true rank. */
export const adapterBytes = (adapter: AdapterWeights): number => adapter.report.numBytes;

/** Each slot `times` times, in order. */
export const slotsOf = (count: number, times = 1, first = 0): SlotId[] =>
  Array.from({ length: count * times }, (_, i) => asSlotId(first + Math.floor(i / times)));
