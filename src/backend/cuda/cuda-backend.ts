/** The backend on an NVIDIA device: sizes, slots and words here, everything else in `native/cuda`. */
import { AdapterError, InvariantError, invariant, ModelError, NativeError } from "../../core/errors.ts";
import type { SlotId } from "../../core/ids.ts";
import { decodeResult, encodeStep, StepBlock } from "../../core/step-block.ts";
import type { Step, StepResult } from "../../core/step.ts";
import type { DeviceNumbers } from "../../lora/adapter-report.ts";
import type { AdapterForm, AdapterMatrix, AdapterWeights, Replacement } from "../../lora/adapter-weights.ts";
import type { Program } from "../../model/program.ts";
import type { AdapterImage, Backend, BackendInfo, BackendOptions } from "../backend.ts";
import { ropeTable } from "../rope-table.ts";
import { type BufferValues, type CudaAddon, type CudaEngine, type EngineOptions, type LaunchTime, loadAddon, type SourceMatrix, type SourceReplacement } from "./addon.ts";
import { BUFFER_ROWS, PAGE_TOKENS, SITE_KIND, WEIGHT_KIND } from "./layout.ts";
import { DTYPE, loadWeights } from "./load-weights.ts";
import { lowerProgram, moduleBorders, siteKinds } from "./lower-program.ts";

const BYTES_PER_NUMBER = 2;
/** Adapters' matrices begin at multiples of it. */
const EXTENT_ALIGNMENT = 1024;

/** Bytes of one page, for callers that size `numExtents` by a budget. */
export const cudaPageBytes = ({ numLayers, attention }: Program): number =>
  Math.ceil((numLayers * 2 * attention.numKvHeads * PAGE_TOKENS * attention.headDim * BYTES_PER_NUMBER) / EXTENT_ALIGNMENT) * EXTENT_ALIGNMENT;

/** Of work areas, adapters' at their first rank included. */
const ROUTED_ROW_BYTES = 512;

/** Bytes that the engine takes beside weights, KV pages and adapters; a little more than it does. */
export function activationBytes(program: Program, maxRows: number, maxSequences: number): number {
  const rows = Math.ceil(Math.max(maxRows, maxSequences) / 256) * 256;
  const sampledRows = Math.ceil(maxSequences / 256) * 256;
  const perRow = program.buffers.reduce((sum, buffer) => sum + (buffer.rows === "step" ? buffer.width : 0), 0);
  const perSampledRow = program.buffers.reduce((sum, buffer) => sum + (buffer.rows === "sampled" ? buffer.width : 0), 0);
  const perRoutedRow = program.buffers.reduce((sum, buffer) => sum + (buffer.rows === "routed" ? buffer.width : 0), 0);
  const routedRows = rows * (program.routing?.topK ?? 0);
  return 4 * (rows * perRow + sampledRows * perSampledRow) + routedRows * (BYTES_PER_NUMBER * perRoutedRow + ROUTED_ROW_BYTES) + (256 << 20);
}

/** Matrices of adapters are bfloat16, as the base's are. */
export const ADAPTER_NUMBERS: DeviceNumbers = { keeps: ["BF16"], roundsTo: "bfloat16" };

/** Forms of adapters served beyond plain LoRA. */
export const ADAPTER_FORMS: readonly AdapterForm[] = ["dora", "lora_bias", "head_lora", "embedding_lora", "modules_to_save", "trainable_tokens", "base_bias", "base_copies"];

export interface CudaOptions extends BackendOptions {
  readonly device?: number;
  /** Path of cuBLASLt, `none` for the engine's own kernels; looked for where it usually is when left out. */
  readonly cublasltPath?: string;
  /** Random weights of this seed instead of the checkpoint's, made on the device: for benches. */
  readonly randomSeed?: number;
}

/**
 * @throws {NativeError} `backend_unavailable` without addon, driver, device or memory
 * @throws {ModelError} `model_invalid` for damaged weights, `model_unsupported` for a format that has no kernels here
 */
export async function openCudaBackend(options: CudaOptions, addon: CudaAddon = loadAddon()): Promise<CudaBackend> {
  if (options.format !== "bfloat16") {
    throw new ModelError("model_unsupported", `dtype ${options.format} is not served on a CUDA device; use bfloat16, or --backend wasm`, { field: "dtype" });
  }
  const { program } = options;
  const maxContext = Math.min(program.maxContext, options.numPages * PAGE_TOKENS);
  const engine = openEngine(addon, options, maxContext);
  try {
    const table = new Float32Array(maxContext * program.rope.rotaryDim);
    ropeTable(program, maxContext, table);
    engine.loadRopeTable(table);
    if (options.randomSeed === undefined) await loadWeights(options, engine);
    else await engine.fillRandom(options.randomSeed);
    await engine.warmUp();
  } catch (cause) {
    engine.close();
    throw translated(cause);
  }
  return new CudaBackend(options, engine);
}

function openEngine(addon: CudaAddon, options: CudaOptions, maxContext: number): CudaEngine {
  const { program } = options;
  const { buffers, launches, longestWindow } = lowerProgram(program);
  const kinds = siteKinds(program);
  const native: EngineOptions = {
    device: options.device ?? 0,
    cublasltPath: options.cublasltPath ?? process.env["LORIKEET_CUBLASLT"] ?? "",
    maxRows: options.maxRows,
    maxSequences: options.maxSequences,
    numExtents: options.numExtents,
    extentBytes: cudaPageBytes(program),
    numPages: options.numPages,
    numSlots: options.numSlots,
    numLayers: program.numLayers,
    numHeads: program.attention.numHeads,
    numKvHeads: program.attention.numKvHeads,
    headDim: program.attention.headDim,
    rotaryDim: program.rope.rotaryDim,
    vocabSize: program.vocabSize,
    maxContext,
    numExperts: program.routing?.numExperts ?? 0,
    topK: program.routing?.topK ?? 0,
    longestWindow,
    scoreScale: program.attention.scale,
    buffers: buffers.map(({ width, rows, isFloat }) => ({ width, rows: BUFFER_ROWS[rows], isFloat })),
    weights: program.weights.map(({ kind, rows, cols, numExperts = 1 }) => ({ rows, cols, kind: WEIGHT_KIND[kind], numExperts })),
    sites: program.sites.map((site, id) => ({ kind: SITE_KIND[kinds[id]!], inWidth: site.inWidth, borders: moduleBorders(site), expert: site.expert ?? 0 })),
    launches,
  };
  try {
    return new addon.Engine(native);
  } catch (cause) {
    throw translated(cause);
  }
}

interface CudaAdapterImage extends AdapterImage {
  readonly image: unknown;
}

export class CudaBackend implements Backend {
  readonly info: BackendInfo;
  readonly #engine: CudaEngine;
  readonly #attached = new Set<SlotId>();
  readonly #block = new StepBlock();

  constructor(options: CudaOptions, engine: CudaEngine) {
    this.#engine = engine;
    const { description, weightBytes } = engine.stats();
    this.info = {
      name: "cuda",
      adapterNumbers: ADAPTER_NUMBERS,
      adapterForms: ADAPTER_FORMS,
      allowsTokens: true,
      stepsAhead: 1,
      description: `CUDA, ${description}, ${options.format} weights`,
      pageTokens: PAGE_TOKENS,
      numExtents: options.numExtents,
      extentBytes: cudaPageBytes(options.program),
      numPages: options.numPages,
      numSlots: options.numSlots,
      maxRows: options.maxRows,
      maxSequences: options.maxSequences,
      weightBytes,
    };
  }

  async run(step: Step): Promise<StepResult> {
    encodeStep(step, this.#block);
    // The engine copies the words before it returns.
    const running = this.#engine.run(this.#block.used);
    try {
      const words = await running;
      return decodeResult(words, new Float32Array(words.buffer));
    } catch (cause) {
      throw translated(cause);
    }
  }

  /** Time of each kind of launch of a step, for benches; what the step computes is lost. */
  async profile(step: Step): Promise<readonly LaunchTime[]> {
    encodeStep(step, this.#block);
    return this.#engine.profile(this.#block.used);
  }

  /**
   * Runs some launches of a step by themselves, for tests that compare one operation.
   *
   * Kernels, their variants and their order are those that the step would run. What a linear operation leaves to be added
   * to its output (bias, adapters' deltas) is added by the launch that reads it, as ever. KV pages are written and read
   * as in a step, and stay until they are written again.
   *
   * @param first index into the launches of `lowerProgram`
   * @param inputs written before, rounded to bfloat16 where the buffer is; all other buffers hold what came before
   * @param outputs buffers that are read after
   * @returns those buffers, `[rows, width]` each, and the sampled tokens, which mean something where the launches end in `sample`
   * @throws {InvariantError} for launches, buffers or sizes that the program does not have
   */
  async runLaunches(step: Step, first: number, count: number, inputs: readonly BufferValues[], outputs: readonly number[]) {
    encodeStep(step, this.#block);
    try {
      const { buffers, record } = await this.#engine.runLaunches(this.#block.used, first, count, inputs, outputs);
      return { buffers, sampled: decodeResult(record, new Float32Array(record.buffer)).sampled };
    } catch (cause) {
      throw translated(cause);
    }
  }

  async stage(adapter: AdapterWeights): Promise<AdapterImage> {
    try {
      const { image, numBytes } = await this.#engine.stage(
        adapter.deltas.toSorted((one, other) => one.site - other.site).map(({ a, b, ...delta }) => ({ ...delta, a: source(a), b: source(b) })),
        (adapter.replacements ?? []).map(replaced),
      );
      const staged: CudaAdapterImage = { digest: adapter.digest, numBytes, image };
      return staged;
    } catch (cause) {
      throw translated(cause);
    }
  }

  async attach(slot: SlotId, extent: number, image: AdapterImage): Promise<void> {
    if (!isCudaImage(image)) throw new InvariantError("an image was staged by another backend");
    invariant(!this.#attached.has(slot), "a slot is detached before it is attached again");
    this.#attached.add(slot);
    try {
      await this.#engine.attach(slot, extent * this.info.extentBytes, image.image);
    } catch (cause) {
      this.#attached.delete(slot);
      throw translated(cause);
    }
  }

  // The slot's records keep pointing at its old bytes, which no step reads: a slot without an adapter is never named.
  detach(slot: SlotId): void {
    invariant(this.#attached.delete(slot), "only an attached slot is detached");
  }

  async close(): Promise<void> {
    this.#engine.close();
  }
}

const source = ({ dtype, rows, cols, bytes }: AdapterMatrix): SourceMatrix => ({ dtype: DTYPE[dtype], rows, cols, bytes });

const replaced = ({ site, part, form, rows, values }: Replacement): SourceReplacement => ({
  site,
  ofBias: part === "bias",
  isCopy: form === "base_copies",
  values: source(values),
  ...(typeof rows === "number" ? { firstRow: rows } : { firstRow: rows[0] ?? 0, rows: Int32Array.from(rows) }),
});

const isCudaImage = (image: AdapterImage): image is CudaAdapterImage => "image" in image;

/** The engine's errors carry a code that says who must act. */
function translated(cause: unknown): unknown {
  if (!(cause instanceof Error) || !("code" in cause)) return cause;
  switch (cause.code) {
    case "adapter_invalid":
      return new AdapterError("adapter_invalid", cause.message);
    case "adapter_too_large":
      return new AdapterError("adapter_too_large", cause.message);
    case "out_of_memory":
    case "no_device":
      return new NativeError("backend_unavailable", `${cause.message}; lower kv_cache_config, max_num_tokens or max_loras, or use --backend wasm`, { cause });
    case "step_invalid":
      return new InvariantError(cause.message, { cause });
    default:
      return new NativeError("backend_failed", cause.message, { cause });
  }
}
