/** The backend for any CPU: kernels in WebAssembly SIMD on a pool of threads over one shared memory. */
import { AdapterError, InvariantError, invariant } from "../../core/errors.ts";
import type { SlotId } from "../../core/ids.ts";
import { decodeResult, encodeStep, resultWords, StepBlock, stepWords } from "../../core/step-block.ts";
import { MAX_TABLES_PER_PAGE, RESULT_HEADER } from "../../core/step-layout.ts";
import type { Step, StepResult } from "../../core/step.ts";
import type { AdapterForm, AdapterWeights } from "../../lora/adapter-weights.ts";
import { layerSites, type Program, type SiteId } from "../../model/program.ts";
import type { AdapterImage, Backend, BackendInfo, BackendOptions } from "../backend.ts";
import { attachImage, type WasmAdapterImage } from "./adapter-image.ts";
import { ropeTable } from "../rope-table.ts";
import { compileProgram, layerPageBytes, paddedHeadDim } from "./compile.ts";
import { FORMAT, formatOf } from "./formats.ts";
import { CONTROL, CONTROL_WORDS, MAX_QUERY_HEADS, OPERATION_WORDS, PAGE_TOKENS, ROW_BLOCK, WORK_COUNTERS } from "./layout.ts";
import { loadWeights, matrixBytes, windowsBytes } from "./load-weights.ts";
import { align, MemoryPlan } from "./memory.ts";
import { compileModule, createMemory, instantiate, STACK_BYTES, WASM_PAGE_BYTES, type WasmExports } from "./module.ts";
import { ThreadPool } from "./pool.ts";
import { AdapterStager, type BaseWeights } from "./stage-adapter.ts";

/** Forms of adapters served beyond plain LoRA. */
export const ADAPTER_FORMS: readonly AdapterForm[] = ["dora", "lora_bias", "head_lora", "embedding_lora", "modules_to_save", "trainable_tokens", "base_bias", "base_copies"];

/** Bytes of one page, for callers that size `numExtents` by a budget. */
export const kvPageBytes = (program: Program): number => program.numLayers * layerPageBytes(program);

/** @throws {NativeError} `backend_unavailable`; {ModelError} `model_invalid` for damaged weights */
export async function openWasmBackend(options: BackendOptions): Promise<WasmBackend> {
  const module = await compileModule();
  const layout = planMemory(options, instantiateProbe(module));
  const memory = createMemory(layout.end);
  const exports = instantiate(module, memory, layout.stacks[0]!);
  await loadWeights(options, { exports, memory, format: FORMAT[options.format], at: layout.weights, windows: layout.window });
  writeConstants(options, layout, memory);
  const control = new Int32Array(memory.buffer, layout.control, CONTROL_WORDS);
  const pool = await ThreadPool.start(
    Array.from({ length: options.numThreads }, (_, thread) => ({
      module,
      memory,
      // The main thread's instance keeps the first stack.
      stackTop: layout.stacks[thread + 1]!,
      control: layout.control,
      thread,
    })),
    control,
  );
  return new WasmBackend(options, layout, memory, exports, pool, new AdapterStager(module, options.program, baseWeights(options, layout, memory)));
}

function baseWeights({ program, format }: BackendOptions, { weights, matrixBytes }: Layout, memory: WebAssembly.Memory): BaseWeights {
  const operationOf = (site: SiteId) => {
    const { expert = 0 } = program.sites[site]!;
    const operation = program.operations.find((each) => "site" in each && each.site === site - expert);
    invariant(operation !== undefined && "site" in operation, "every site is one operation's");
    return { operation, expert };
  };
  return {
    panels: (site) => {
      const { operation: { weight }, expert } = operationOf(site);
      const spec = program.weights[weight]!;
      const numBytes = matrixBytes[weight]!;
      return { bytes: new Uint8Array(memory.buffer, weights[weight]! + expert * numBytes, numBytes), format: formatOf(spec, FORMAT[format]), rows: spec.rows };
    },
    bias: (site) => {
      const { operation } = operationOf(site);
      invariant(operation.kind === "linear" && operation.bias !== null, "a replaced bias has one of the base's to replace");
      return new Float32Array(memory.buffer, weights[operation.bias]!, program.weights[operation.bias]!.rows);
    },
  };
}

/** Sizes are asked of the C code before the real memory exists. */
function instantiateProbe(module: WebAssembly.Module): WasmExports {
  const plan = new MemoryPlan();
  const stack = plan.reserve(STACK_BYTES) + STACK_BYTES;
  return instantiate(module, createMemory(plan.end), stack);
}

interface Layout {
  /** Top addresses: the main thread's, then one per compute thread. */
  readonly stacks: readonly number[];
  readonly control: number;
  readonly operations: number;
  readonly workCounters: number;
  readonly workCounterWords: number;
  readonly block: number;
  readonly blockWords: number;
  readonly result: number;
  readonly resultWords: number;
  readonly buffers: readonly number[];
  readonly groups: number;
  readonly packed: number;
  readonly packedBlockBytes: number;
  readonly scratch: number;
  readonly scratchBytes: number;
  readonly slotSites: number;
  readonly ropeTable: number;
  readonly maxContext: number;
  readonly extents: number;
  readonly extentBytes: number;
  readonly weights: readonly number[];
  /** Of each matrix of a weight. */
  readonly matrixBytes: readonly number[];
  readonly weightBytes: number;
  /** Free before the first step: what loading weights reads into. Later the start of the shrunk rows, which grow. */
  readonly window: number;
  readonly end: number;
}

function planMemory(options: BackendOptions, exports: WasmExports): Layout {
  const { program, maxRows, maxSequences, numPages, numThreads } = options;
  const format = FORMAT[options.format];
  const plan = new MemoryPlan();
  const maxContext = Math.min(program.maxContext, numPages * PAGE_TOKENS);
  const topK = program.routing?.topK ?? 1;
  const numExperts = program.routing?.numExperts ?? 0;
  const siteCols = Math.max(program.hiddenSize, ...layerSites(program).map((site) => site.inWidth));
  // A router stays float32, whose packed rows are larger than those of int8.
  const packedBytes = Math.max(...program.weights.map((weight) => exports.activation_bytes(formatOf(weight, format), ROW_BLOCK, weight.cols) >>> 0));
  const packedBlockBytes = align(Math.max(packedBytes, exports.activation_bytes(FORMAT.float32, ROW_BLOCK, siteCols) >>> 0));
  const scratchBytes = align(
    Math.max(
      packedBlockBytes + (exports.linear_scratch_bytes() >>> 0),
      MAX_QUERY_HEADS * (5 * paddedHeadDim(program) + maxContext + 2 * PAGE_TOKENS) * 4,
      (program.vocabSize + 4) * 4,
      (numExperts + 4 + topK) * 4,
    ),
  );
  const maxListed = MAX_TABLES_PER_PAGE * numPages;
  // Penalties list tokens that are in the KV pool, or were just sampled; biases and stop tokens come on top.
  const maxAdjustments = Math.min(maxListed * PAGE_TOKENS, maxSequences * Math.min(maxContext, program.vocabSize)) + maxSequences * 1024;
  // A sequence whose adapter comes to act in the step is there twice, and so are its pages.
  const blockWords = stepWords(maxRows, maxSequences, 2 * maxListed, maxSequences, maxSequences, maxAdjustments, maxSequences * Math.ceil(program.vocabSize / 32));
  const workCounterWords = program.operations.length * WORK_COUNTERS;
  const eachBytes = program.weights.map((weight) => matrixBytes(exports, weight, format));
  const sizes = program.weights.map(({ numExperts: count = 1 }, id) => eachBytes[id]! * count);

  const stacks = Array.from({ length: numThreads + 1 }, () => plan.reserve(STACK_BYTES) + STACK_BYTES);
  const control = plan.reserve(CONTROL_WORDS * 4);
  const layout = {
    stacks,
    control,
    operations: plan.reserve(program.operations.length * OPERATION_WORDS * 4),
    workCounters: plan.reserve(workCounterWords * 4),
    workCounterWords,
    block: plan.reserve(blockWords * 4),
    blockWords,
    result: plan.reserve(resultWords(maxSequences) * 4),
    resultWords: resultWords(maxSequences),
    buffers: program.buffers.map(({ width, rows }) =>
      plan.reserve(width * { sampled: maxSequences, step: maxRows, routed: maxRows * topK }[rows] * 4),
    ),
    groups: plan.reserve(numExperts === 0 ? 0 : (numExperts + 1 + 2 * maxRows * topK) * 4),
    packed: plan.reserve(packedBytes),
    packedBlockBytes,
    scratch: plan.reserve(numThreads * scratchBytes),
    scratchBytes,
    slotSites: plan.reserve(options.numSlots * program.sites.length * 4),
    ropeTable: plan.reserve(maxContext * program.rope.rotaryDim * 4),
    maxContext,
    extentBytes: kvPageBytes(program),
    extents: plan.reserve(options.numExtents * kvPageBytes(program)),
    weights: sizes.map((size) => plan.reserve(size)),
    matrixBytes: eachBytes,
    weightBytes: sizes.reduce((sum, size) => sum + size, 0),
  };
  const window = plan.reserve(windowsBytes(program));
  return { ...layout, window, end: plan.end };
}

function writeConstants(options: BackendOptions, layout: Layout, memory: WebAssembly.Memory): void {
  const { program } = options;
  const words = compileProgram(program, {
    buffers: layout.buffers,
    weights: layout.weights,
    matrixBytes: layout.matrixBytes,
    format: FORMAT[options.format],
  });
  new Uint32Array(memory.buffer, layout.operations, words.length).set(words);
  ropeTable(program, layout.maxContext, new Float32Array(memory.buffer, layout.ropeTable));

  const control = new Uint32Array(memory.buffer, layout.control, CONTROL_WORDS);
  const constants: Partial<Record<keyof typeof CONTROL, number>> = {
    numThreads: options.numThreads,
    block: layout.block,
    result: layout.result,
    operations: layout.operations,
    numOperations: program.operations.length,
    workCounters: layout.workCounters,
    packed: layout.packed,
    packedBlockBytes: layout.packedBlockBytes,
    scratch: layout.scratch,
    scratchBytes: layout.scratchBytes,
    slotSites: layout.slotSites,
    numSites: program.sites.length,
    kvPages: layout.extents,
    pageBytes: layout.extentBytes,
    numHeads: program.attention.numHeads,
    numKvHeads: program.attention.numKvHeads,
    headDim: program.attention.headDim,
    headDimPadded: paddedHeadDim(program),
    rotaryDim: program.rope.rotaryDim,
    ropeTable: layout.ropeTable,
    vocabSize: program.vocabSize,
    maxContext: layout.maxContext,
    numExperts: program.routing?.numExperts ?? 0,
    topK: program.routing?.topK ?? 1,
    groups: layout.groups,
  };
  for (const [name, value] of Object.entries(constants)) control[CONTROL[name as keyof typeof CONTROL]] = value;
  new Float32Array(memory.buffer, layout.control, CONTROL_WORDS)[CONTROL.scoreScale] = program.attention.scale;
}

class WasmBackend implements Backend {
  readonly info: BackendInfo;
  /** Where the weights lie, side by side: benches read the same bytes. */
  readonly weights: { readonly memory: WebAssembly.Memory; readonly at: number; readonly numBytes: number };
  readonly #options: BackendOptions;
  readonly #layout: Layout;
  readonly #memory: WebAssembly.Memory;
  readonly #exports: WasmExports;
  readonly #pool: ThreadPool;
  readonly #stager: AdapterStager;
  readonly #attached = new Set<SlotId>();
  readonly #block = new StepBlock();
  /** The LoRA work areas at the end of memory, as large as the largest adapter attached so far needs. */
  #maxTotalRank = 0;
  #maxRank = 0;
  #shrunkBytes = 0;
  #expandBytes = 0;
  #heldBytes = 0;
  #running: Promise<unknown> = Promise.resolve();

  constructor(
    options: BackendOptions,
    layout: Layout,
    memory: WebAssembly.Memory,
    exports: WasmExports,
    pool: ThreadPool,
    stager: AdapterStager,
  ) {
    this.#options = options;
    this.weights = { memory, at: layout.weights[0]!, numBytes: layout.window - layout.weights[0]! };
    this.#layout = layout;
    this.#memory = memory;
    this.#exports = exports;
    this.#pool = pool;
    this.#stager = stager;
    const threads = options.numThreads === 1 ? "1 thread" : `${options.numThreads} threads`;
    this.info = {
      adapterForms: ADAPTER_FORMS,
      allowsTokens: true,
      name: "wasm",
      description: `WebAssembly SIMD, ${threads}, ${options.format} weights`,
      pageTokens: PAGE_TOKENS,
      numExtents: options.numExtents,
      extentBytes: layout.extentBytes,
      numPages: options.numPages,
      numSlots: options.numSlots,
      maxRows: options.maxRows,
      maxSequences: options.maxSequences,
      weightBytes: layout.weightBytes,
    };
  }

  run(step: Step): Promise<StepResult> {
    const result = this.#running.then(() => this.#run(step));
    this.#running = result.catch(() => undefined);
    return result;
  }

  async #run(step: Step): Promise<StepResult> {
    const started = performance.now();
    encodeStep(step, this.#block);
    const { used } = this.#block;
    invariant(used.length <= this.#layout.blockWords, "a step block fits its memory");
    const { buffer } = this.#memory;
    new Int32Array(buffer, this.#layout.block, used.length).set(used);
    new Uint32Array(buffer, this.#layout.workCounters, this.#layout.workCounterWords).fill(0);
    this.#writeLoraAreas();
    await this.#pool.step();
    const words = new Int32Array(buffer, this.#layout.result, this.#layout.resultWords);
    words[RESULT_HEADER.elapsedMicros] = (performance.now() - started) * 1000;
    return decodeResult(words, new Float32Array(buffer, this.#layout.result, this.#layout.resultWords));
  }

  stage(adapter: AdapterWeights): Promise<AdapterImage> {
    return this.#stager.stage(adapter);
  }

  // Nothing here waits: the copy runs at memory speed, and a slot that no step names may be written at any time.
  async attach(slot: SlotId, extent: number, image: AdapterImage): Promise<void> {
    if (!isWasmImage(image)) throw new InvariantError("an image was staged by another backend");
    invariant(!this.#attached.has(slot), "a slot is detached before it is attached again");
    const { extents, extentBytes } = this.#layout;
    invariant(extent >= 0 && extent * extentBytes + image.numBytes <= this.#options.numExtents * extentBytes, "an adapter lies in the pool");
    this.#growLoraAreas(image);
    this.#attached.add(slot);
    attachImage(this.#memory, extents + extent * extentBytes, image, this.#siteTable(slot));
  }

  detach(slot: SlotId): void {
    invariant(this.#attached.delete(slot), "only an attached slot is detached");
    this.#siteTable(slot).fill(0);
  }

  async close(): Promise<void> {
    await this.#running;
    this.#pool.stop();
  }

  #siteTable(slot: SlotId): Uint32Array {
    const numSites = this.#options.program.sites.length;
    return new Uint32Array(this.#memory.buffer, this.#layout.slotSites + slot * numSites * 4, numSites);
  }

  /** Work areas lie at the end of memory so that an adapter of any rank only makes the memory longer. */
  #growLoraAreas(image: WasmAdapterImage): void {
    if (image.maxTotalRank <= this.#maxTotalRank && image.maxRank <= this.#maxRank && (!image.holds || this.#heldBytes > 0)) return;
    const { maxRows, numThreads, program } = this.#options;
    const maxTotalRank = Math.max(this.#maxTotalRank, Math.ceil(image.maxTotalRank / 8) * 8);
    const maxRank = Math.max(this.#maxRank, image.maxRank);
    const shrunkBytes = align(maxRows * (program.routing?.topK ?? 1) * maxTotalRank * 4);
    const expandBytes = align(this.#exports.activation_bytes(FORMAT.float32, ROW_BLOCK, maxRank) >>> 0);
    const heldBytes = image.holds ? maxRows * Math.max(...layerSites(program).map(({ outWidth }) => outWidth)) * 4 : this.#heldBytes;
    const missing = this.#layout.window + shrunkBytes + numThreads * expandBytes + heldBytes - this.#memory.buffer.byteLength;
    if (missing > 0) {
      try {
        this.#memory.grow(Math.ceil(missing / WASM_PAGE_BYTES));
      } catch (cause) {
        throw new AdapterError("adapter_too_large", `no memory for the work areas of rank ${image.maxRank}`, { cause });
      }
    }
    this.#maxTotalRank = maxTotalRank;
    this.#maxRank = maxRank;
    this.#shrunkBytes = shrunkBytes;
    this.#expandBytes = expandBytes;
    this.#heldBytes = heldBytes;
  }

  /** Written between steps only: threads read these words while a step runs. */
  #writeLoraAreas(): void {
    const control = new Uint32Array(this.#memory.buffer, this.#layout.control, CONTROL_WORDS);
    control[CONTROL.shrunk] = this.#layout.window;
    control[CONTROL.shrinkStride] = this.#maxTotalRank;
    control[CONTROL.expandPacked] = this.#layout.window + this.#shrunkBytes;
    control[CONTROL.expandPackedBytes] = this.#expandBytes;
    control[CONTROL.held] = this.#layout.window + this.#shrunkBytes + this.#options.numThreads * this.#expandBytes;
  }
}

function isWasmImage(image: AdapterImage): image is WasmAdapterImage {
  return "sites" in image;
}
