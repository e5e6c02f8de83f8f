/** A running Lorikeet from a model's directory: the one composition that the command and the library share. */
import { availableParallelism } from "node:os";
import type { WeightFormat } from "../backend/backend.ts";
import { PAGE_TOKENS } from "../backend/wasm/layout.ts";
import { kvPageBytes, openWasmBackend } from "../backend/wasm/wasm-backend.ts";
import { AdapterError, type LorikeetError, NativeError } from "../core/errors.ts";
import { discoverAdapters, type NamedAdapter, resolveUnderRoots } from "../lora/adapter-paths.ts";
import { readAdapter } from "../lora/read-adapter.ts";
import { type LoadedModel, loadModel } from "../model/load-model.ts";
import { createLocalRuntime, type LocalRuntime } from "./local-runtime.ts";
import { type MemoryWish, sizeMemory } from "./size-memory.ts";

export interface OpenOptions {
  /** Directory of the base model. */
  readonly model: string;
  /** Name to serve it under; `null` for the directory's. */
  readonly name: string | null;
  readonly backend: "auto" | "wasm" | "cuda";
  readonly format: WeightFormat;
  /** Compute threads; `null` for one per core. */
  readonly numThreads: number | null;
  /** Most rows in one step. */
  readonly maxRows: number;
  readonly maxWaitingRequests: number;
  /** `null` for no limit. */
  readonly requestTimeoutMs: number | null;
  /** Directories of one adapter or of many, or `name=DIR`. */
  readonly loraDirs: readonly string[];
  /** Directories under which requests may name adapters by path. */
  readonly adapterRoots: readonly string[];
  readonly memory: MemoryWish;
  readonly onFailure?: (error: LorikeetError) => void;
}

export interface Opened {
  readonly runtime: LocalRuntime;
  /** Why this backend, in a few words. */
  readonly backendReason: string;
  readonly served: readonly NamedAdapter[];
  readonly notServed: readonly NotServed[];
}

export interface NotServed {
  readonly name: string;
  readonly reason: string;
}

/** More adapters than this are not read before they are used. */
const MAX_CHECKED_ADAPTERS = 64;

/**
 * @throws {ModelError} for a model that cannot be served
 * @throws {ConfigError} `config_invalid`
 * @throws {NativeError} `backend_unavailable`
 */
export async function openRuntime(options: OpenOptions): Promise<Opened> {
  const backendReason = chooseBackend(options.backend);
  const model = await loadModel(options.model, options.name === null ? {} : { name: options.name });
  const { served, notServed } = await findAdapters(options, model);
  const sizes = sizeMemory(model.program, options.memory, {
    pageTokens: PAGE_TOKENS,
    pageBytes: kvPageBytes(model.program),
    weightBytes: weightBytes(model, options.format),
  });
  const backend = await openWasmBackend({
    ...sizes,
    program: model.program,
    weights: model.weights,
    format: options.format,
    numThreads: options.numThreads ?? availableParallelism(),
    maxRows: Math.max(options.maxRows, options.memory.maxSequences),
    maxSequences: options.memory.maxSequences,
  });
  const limits = { maxRank: options.memory.maxRank };
  const runtime = createLocalRuntime({
    model,
    backend,
    readAdapter: ({ path }) => readAdapter(path, model.program, limits),
    resolvePath: (path) => resolveUnderRoots(path, options.adapterRoots),
    options: {
      adapters: served,
      adapterRoots: options.adapterRoots,
      maxContext: options.memory.maxContext,
      maxWaitingRequests: options.maxWaitingRequests,
      requestTimeoutMs: options.requestTimeoutMs,
      hostCacheBytes: sizes.hostCacheBytes,
    },
    ...(options.onFailure === undefined ? {} : { onFailure: options.onFailure }),
  });
  return { runtime, backendReason, served, notServed };
}

function chooseBackend(wanted: OpenOptions["backend"]): string {
  switch (wanted) {
    case "wasm":
      return "as asked";
    case "auto":
      return "this build has no CUDA engine";
    case "cuda":
      throw new NativeError("backend_unavailable", "this build has no CUDA engine; use --backend wasm, or auto", { field: "backend" });
  }
}

async function findAdapters(options: OpenOptions, model: LoadedModel): Promise<Pick<Opened, "served" | "notServed">> {
  const found = new Map<string, NamedAdapter>();
  for (const directory of options.loraDirs) {
    for (const adapter of await discoverAdapters(directory)) found.set(adapter.name, adapter);
  }
  const served: NamedAdapter[] = [];
  const notServed: NotServed[] = [];
  for (const [i, adapter] of [...found.values()].entries()) {
    const reason = i < MAX_CHECKED_ADAPTERS ? await reasonAgainst(adapter, options, model) : null;
    if (reason === null) served.push(adapter);
    else notServed.push({ name: adapter.name, reason });
  }
  return { served, notServed };
}

/** @returns what keeps an adapter from being served; `null` for one that can be */
async function reasonAgainst({ path }: NamedAdapter, { memory }: OpenOptions, { program }: LoadedModel): Promise<string | null> {
  try {
    await readAdapter(path, program, { maxRank: memory.maxRank });
    return null;
  } catch (thrown) {
    return thrown instanceof AdapterError ? thrown.message : "its files cannot be read";
  }
}

const BYTES_PER_WEIGHT: Readonly<Record<WeightFormat, number>> = { float32: 4, bfloat16: 2, int8: 1.25 };

const weightBytes = ({ program }: LoadedModel, format: WeightFormat): number =>
  BYTES_PER_WEIGHT[format] * program.weights.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
