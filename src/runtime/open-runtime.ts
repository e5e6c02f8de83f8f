/** A running Lorikeet from a model's directory: the one composition that the command and the library share. */
import { availableParallelism } from "node:os";
import type { WeightFormat } from "../backend/backend.ts";
import { chooseBackend } from "../backend/choose-backend.ts";
import type { WeightProgress } from "../backend/read-weights.ts";
import type { LorikeetError } from "../core/errors.ts";
import { checkForms } from "../lora/adapter-forms.ts";
import { reportOn } from "../lora/adapter-report.ts";
import type { AdapterLimits } from "../lora/assemble-adapter.ts";
import type { AdapterWeights } from "../lora/adapter-weights.ts";
import { type CheckpointSource, readAdapter } from "../lora/read-adapter.ts";
import { moduleAliases } from "../lora/module-aliases.ts";
import { targetModules } from "../lora/target-modules.ts";
import { loadModel } from "../model/load-model.ts";
import { allowedSources } from "../sources/allowed-sources.ts";
import { checkAdapterNumbers, checkCacheSizes } from "./check-adapter-settings.ts";
import type { FetchAdapter } from "./fetch-adapter.ts";
import { findAdapters, findModel, type FoundAdapter, type SourceOptions, sourcesOf } from "./find-sources.ts";
import { createLocalRuntime, type LocalRuntime } from "./local-runtime.ts";
import type { RefusedAdapter } from "./runtime-options.ts";
import type { AdapterLoad } from "./runtime-parts.ts";
import { type MemoryWish, sizeMemory } from "./size-memory.ts";

/** The settings of the same names, in the units of the command line. */
export interface OpenOptions extends SourceOptions {
  /** Directory or other source of the base model; refused where it is `null`. */
  readonly model: string | null;
  /** `null` for the directory's name. */
  readonly servedModelName: string | null;
  readonly backend: "auto" | "wasm" | "cuda";
  readonly dtype: WeightFormat | "auto";
  /** Compute threads; `null` for one per core. */
  readonly threads: number | null;
  /** Most sequences in one step, and most rows; `null` for what suits the backend. */
  readonly maxBatchSize: number | null;
  readonly maxNumTokens: number | null;
  readonly maxSeqLen: number | null;
  readonly maxQueue: number;
  readonly requestTimeoutS: number;
  /** Whether no step is composed before the one under way is over. */
  readonly disableOverlapScheduler: boolean;
  /** Those who have an API key of their own with a share and a quota. */
  readonly clients?: readonly {
    readonly name: string;
    readonly weight: number;
    readonly maxRequests: number | null;
    readonly requestsPerMinute: number | null;
    readonly tokensPerMinute: number | null;
  }[];
  /** Directories under which requests may name adapters by path. */
  readonly adapterRoot: readonly string[];
  readonly loraConfig: {
    /** Directories of one adapter or of many, `.nemo` files, or sources of one elsewhere, each also as `name=DIR`. */
    readonly loraDir: readonly string[];
    /** When those that are elsewhere are fetched. */
    readonly loraFetch: "first_use" | "start";
    /** By TensorRT-LLM's names; none for all. */
    readonly loraTargetModules: readonly string[];
    readonly maxLoraRank: number;
    readonly maxLoras: number | null;
    readonly maxCpuLoras: number | null;
    readonly loraCkptSource: "hf" | "nemo";
    /** Left out, the archive's configuration decides. */
    readonly nemoQkvLayout?: "auto" | "megatron" | "sequential";
    readonly trtllmModulesToHfModules: Readonly<Record<string, readonly string[]>>;
  };
  readonly peftCacheConfig: {
    readonly hostCacheSize: number;
    readonly deviceCachePercent: number | null;
    readonly numHostModuleLayer: number;
    readonly numDeviceModuleLayer: number;
    readonly maxAdapterSize: number | null;
    readonly numPutWorkers: number;
    readonly numEnsureWorkers: number;
  };
  readonly kvCacheConfig: { readonly maxTokens: number | null; readonly enableBlockReuse: boolean };
  readonly onAdapterLoad?: (load: AdapterLoad) => void;
  /** Hears how much of the weights was read. */
  readonly onWeights?: (progress: WeightProgress) => void;
  /** Hears once that nothing can be served any more. */
  readonly onFailure?: (error: LorikeetError) => void;
}

export interface Opened {
  readonly runtime: LocalRuntime;
  /** Why this backend, in a few words. */
  readonly backendReason: string;
  /** Source and version of the model where it was downloaded; `null` for a directory of this machine. */
  readonly modelOrigin: string | null;
  readonly served: readonly FoundAdapter[];
  /** Adapters that were found and cannot be served. */
  readonly refused: readonly RefusedAdapter[];
}

/** More adapters than this are not read before they are used. */
const MAX_PRELOADED = 64;

/**
 * @throws {ModelError} for a model that cannot be served
 * @throws {ConfigError} `config_invalid`
 * @throws {NativeError} `backend_unavailable`
 */
export async function openRuntime(options: OpenOptions): Promise<Opened> {
  checkAdapterNumbers(options.loraConfig);
  const wanted = chooseBackend(options.backend);
  const format = options.dtype === "auto" ? "bfloat16" : options.dtype;
  const limits = adapterLimits(options);
  const sources = sourcesOf(options);
  const isAllowed = allowedSources(options.adapterSource);
  const base = await findModel(sources, options.model);
  const { loraDir, loraFetch, loraCkptSource, nemoQkvLayout } = options.loraConfig;
  const found = await findAdapters(sources, loraDir, loraFetch === "start");
  const model = await loadModel(base.path, { name: options.servedModelName ?? base.name });
  const { program } = model;
  const chosen = wanted.forProgram(program);
  const maxSequences = options.maxBatchSize ?? chosen.device.defaultSequences;
  const maxRows = Math.max(options.maxNumTokens ?? chosen.device.defaultRows(program, format), maxSequences);
  const wish = memoryWish(options, maxSequences, limits.maxRank);
  const sizes = sizeMemory(program, wish, {
    ...chosen.device,
    pageBytes: chosen.device.pageBytes(program),
    weightBytes: chosen.device.weightBytes(program, format),
    totalBytes: chosen.device.totalBytes(program, maxRows, maxSequences),
  });
  checkCacheSizes(program, wish, sizes, limits.targetModules ?? null, chosen.device.bytesPerAdapterNumber);
  const backend = await chosen.open({
    program,
    weights: model.weights,
    format,
    numThreads: options.threads ?? availableParallelism(),
    maxRows,
    maxSequences,
    numExtents: sizes.numExtents,
    numPages: sizes.numPages,
    numSlots: sizes.numSlots,
    onWeights: options.onWeights,
  });
  const { adapterNumbers } = backend.info;
  const readServed = async (path: string, source: CheckpointSource, within?: readonly string[]): Promise<AdapterWeights> => {
    const weights = checkForms(await readAdapter(path, program, { ...limits, nemoQkvLayout, source, within }), backend.info);
    return adapterNumbers === undefined ? weights : { ...weights, report: reportOn(weights, program, adapterNumbers) };
  };
  /** What the operator listed may be links to anywhere, as a hub's cache is made of them; what a request named may not. */
  const ownPaths = new Set(found.map(({ path }) => path));
  const fetchAdapter: FetchAdapter = async (source, signal, onProgress) => {
    const { path, origin } = await sources.fetch(source, "adapter", { signal, onProgress });
    ownPaths.add(path);
    return { path, origin };
  };
  const runtime = createLocalRuntime({
    model,
    backend,
    readAdapter: ({ path, source, isTrusted }) => readServed(path, source ?? loraCkptSource, isTrusted || ownPaths.has(path) ? undefined : options.adapterRoot),
    fetchAdapter,
    sourceOf: (text) => sources.allowedSource(text, isAllowed),
    options: {
      adapters: found,
      adapterRoots: options.adapterRoot,
      tenants: (options.clients ?? []).map(({ name, weight, ...quota }) => ({ name, weight, quota })),
      maxContext: options.maxSeqLen,
      sharesPrefixes: options.kvCacheConfig.enableBlockReuse,
      maxWaitingRequests: options.maxQueue,
      requestTimeoutMs: options.requestTimeoutS * 1000,
      goesAhead: !options.disableOverlapScheduler,
      adapterBytes: sizes.adapterBytes,
      hostCacheBytes: sizes.hostCacheBytes,
      hostCacheAdapters: sizes.hostCacheAdapters,
      maxLoads: options.peftCacheConfig.numPutWorkers,
      maxImages: options.peftCacheConfig.numEnsureWorkers,
    },
    ...(options.onAdapterLoad === undefined ? {} : { onAdapterLoad: options.onAdapterLoad }),
    ...(options.onFailure === undefined ? {} : { onFailure: options.onFailure }),
  });
  const refused = await preload(runtime, found).catch(async (thrown: unknown) => {
    await runtime.close(0);
    throw thrown;
  });
  const served = found.filter(({ name }) => refused.every((each) => each.name !== name));
  return { runtime, backendReason: chosen.reason, modelOrigin: base.origin, served, refused };
}

/**
 * What the settings leave out.
 *
 * @throws {ConfigError} `config_invalid`
 */
export function adapterLimits({ loraConfig, peftCacheConfig }: Pick<OpenOptions, "loraConfig" | "peftCacheConfig">): AdapterLimits & { readonly maxRank: number } {
  const { maxLoraRank, loraTargetModules, trtllmModulesToHfModules } = loraConfig;
  const { maxAdapterSize } = peftCacheConfig;
  const isCacheSmaller = maxAdapterSize !== null && maxAdapterSize < maxLoraRank;
  return {
    maxRank: isCacheSmaller ? maxAdapterSize : maxLoraRank,
    maxRankSetting: isCacheSmaller ? "max_adapter_size" : "max_lora_rank",
    targetModules: targetModules(loraTargetModules),
    aliases: moduleAliases(trtllmModulesToHfModules),
  };
}

const memoryWish = (
  { maxSeqLen, loraConfig, peftCacheConfig, kvCacheConfig }: OpenOptions,
  maxSequences: number,
  maxRank: number,
): MemoryWish => ({
  kvTokens: kvCacheConfig.maxTokens,
  maxSequences,
  maxContext: maxSeqLen,
  maxRank,
  maxLoras: loraConfig.maxLoras,
  maxCpuLoras: loraConfig.maxCpuLoras,
  devicePart: peftCacheConfig.deviceCachePercent,
  deviceModuleLayers: peftCacheConfig.numDeviceModuleLayer,
  hostModuleLayers: peftCacheConfig.numHostModuleLayer,
  hostBytes: peftCacheConfig.hostCacheSize,
});

/** Reads adapters of this machine into host memory, as far as that goes, and finds those that cannot be served. */
async function preload(runtime: LocalRuntime, adapters: readonly FoundAdapter[]): Promise<readonly RefusedAdapter[]> {
  const refused: RefusedAdapter[] = [];
  for (const { name } of adapters.filter(({ isElsewhere }) => !isElsewhere).slice(0, MAX_PRELOADED)) {
    const error = await runtime.preload(name);
    if (error !== null) refused.push({ name, error });
  }
  return refused;
}
