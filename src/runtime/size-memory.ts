/** How much memory KV pages and adapters get, from what a user said and the model's shape. */
import { ConfigError } from "../core/errors.ts";
import { layerSites, type Program } from "../model/program.ts";

const DEFAULT_SLOTS = 32;

/** What the device holds, in bytes. */
export interface DeviceSizes {
  /** Positions per KV page. */
  readonly pageTokens: number;
  /** One page over all layers. */
  readonly pageBytes: number;
  /** The base model in its format on the device. */
  readonly weightBytes: number;
  /** What weights, KV pages and adapters may take together. */
  readonly totalBytes: number;
  /** KV memory when nobody said how much, unless fewer pages already hold everything that may run at once. */
  readonly defaultKvBytes: number;
  /** Part of what weights and adapters leave that such a default takes at most. */
  readonly defaultKvShare: number;
  readonly defaultAdapterBytes: number;
  /** One number of an adapter takes at most. */
  readonly bytesPerAdapterNumber: number;
}

export interface MemoryWish {
  /** Positions in the KV cache; `null` for as many as are of use within a default. */
  readonly kvTokens: number | null;
  readonly maxSequences: number;
  /** `null` for the model's own limit. */
  readonly maxContext: number | null;
  readonly maxRank: number;
  /** Most adapters on the device, and in host memory; `null` for what fits. */
  readonly maxLoras: number | null;
  readonly maxCpuLoras: number | null;
  /** Part of the device memory that the weights leave, 0 to 1; `null` for a default in bytes. */
  readonly devicePart: number | null;
  /** Rank-1 modules of one layer; 0 for no wish. */
  readonly deviceModuleLayers: number;
  readonly hostModuleLayers: number;
  readonly hostBytes: number;
}

export interface MemorySizes {
  /** The pool that pages and adapters share, in pages. */
  readonly numExtents: number;
  /** Most of it that pages take at once, and most bytes that adapters do. */
  readonly numPages: number;
  readonly adapterBytes: number;
  readonly numSlots: number;
  readonly hostCacheBytes: number;
  /** Most adapters in it; `Infinity` for as many as its bytes hold. */
  readonly hostCacheAdapters: number;
}

/**
 * The pool is as large as KV cache and adapters are said to be together. A size that somebody said is a limit; one that nobody
 * said is none: pages then take what adapters leave, and adapters what one sequence of the longest context leaves.
 *
 * @throws {ConfigError} `config_invalid` when the context is longer than the model's, or the pool than the device
 */
export function sizeMemory(
  program: Program,
  wish: MemoryWish,
  device: DeviceSizes,
): MemorySizes {
  const maxContext = wish.maxContext ?? program.maxContext;
  if (maxContext > program.maxContext) {
    throw new ConfigError("config_invalid", `max_seq_len must be at most the ${program.maxContext} positions of the model, got ${maxContext}`, {
      field: "max_seq_len",
    });
  }
  const { pageTokens, pageBytes, bytesPerAdapterNumber } = device;
  const largest = largestAdapterBytes(program, wish.maxRank, bytesPerAdapterNumber);
  const leftBytes = Math.max(0, Math.floor(device.totalBytes - device.weightBytes));
  const numExtentsLeft = Math.floor(leftBytes / pageBytes);
  const adapterExtents = Math.ceil(saidAdapterBytes(program, wish, device, leftBytes, largest) / pageBytes);
  const contextPages = Math.ceil(maxContext / pageTokens);
  const affordable = Math.floor(Math.min(device.defaultKvBytes / pageBytes, (numExtentsLeft - adapterExtents) * device.defaultKvShare));
  const numPages = wish.kvTokens === null ? Math.min(wish.maxSequences * contextPages, affordable) : Math.ceil(wish.kvTokens / pageTokens);
  if (numPages < 1) {
    throw new ConfigError(
      "config_invalid",
      `the weights take ${device.weightBytes} bytes, and the device has ${Math.floor(device.totalBytes)} for them, the KV cache and adapters; ` +
        "lower max_num_tokens and max_batch_size, or serve a smaller model or format",
      { field: "model" },
    );
  }
  if (numPages > numExtentsLeft) {
    throw new ConfigError(
      "config_invalid",
      `a KV cache of ${numPages * pageTokens} tokens needs ${numPages * pageBytes} bytes, and beside the weights there are ${leftBytes}; ` +
        "lower kv_cache_config.max_tokens, or serve a smaller model or format",
      { field: "kv_cache_config.max_tokens" },
    );
  }
  const isAdaptersSaid = wish.deviceModuleLayers > 0 || wish.maxLoras !== null || wish.devicePart !== null;
  if (isAdaptersSaid && numPages + adapterExtents > numExtentsLeft) {
    throw new ConfigError(
      "config_invalid",
      `a KV cache of ${numPages * pageTokens} tokens and adapters need ${(numPages + adapterExtents) * pageBytes} bytes together, and beside the weights there are ` +
        `${leftBytes}; lower kv_cache_config.max_tokens, or what adapters get (max_loras, device_cache_percent, num_device_module_layer)`,
      { field: "kv_cache_config.max_tokens" },
    );
  }
  const numExtents = Math.min(numPages + adapterExtents, numExtentsLeft);
  return {
    numExtents,
    numPages: wish.kvTokens === null ? numExtents : numPages,
    adapterBytes: (isAdaptersSaid ? adapterExtents : numExtents - Math.min(numPages, contextPages)) * pageBytes,
    numSlots: wish.maxLoras ?? DEFAULT_SLOTS,
    hostCacheBytes: hostBytes(program, wish, largest, bytesPerAdapterNumber),
    hostCacheAdapters: wish.hostModuleLayers > 0 ? Infinity : (wish.maxCpuLoras ?? Infinity),
  };
}

/** What adapters are to have of the device; a default where nobody said. */
function saidAdapterBytes(program: Program, wish: MemoryWish, device: DeviceSizes, leftBytes: number, largest: number): number {
  if (wish.deviceModuleLayers > 0) return wish.deviceModuleLayers * moduleLayerBytes(program, device.bytesPerAdapterNumber);
  // Each takes whole extents.
  if (wish.maxLoras !== null) return Math.min(wish.maxLoras * Math.ceil(largest / device.pageBytes) * device.pageBytes, leftBytes / 2);
  return wish.devicePart === null ? Math.min(device.defaultAdapterBytes, leftBytes / 4) : wish.devicePart * leftBytes;
}

function hostBytes(program: Program, wish: MemoryWish, largest: number, bytesPerNumber: number): number {
  if (wish.hostModuleLayers > 0) return wish.hostModuleLayers * moduleLayerBytes(program, bytesPerNumber);
  return wish.maxCpuLoras === null ? wish.hostBytes : wish.maxCpuLoras * largest;
}

/** Of an adapter of one rank on every module. */
export const largestAdapterBytes = (program: Program, rank: number, bytesPerNumber: number): number =>
  rank * bytesPerNumber * layerSites(program).reduce((sum, site) => sum + siteNumbers(site), 0);

/** TensorRT-LLM's unit: a rank-1 adapter of the largest module in one layer. */
const moduleLayerBytes = (program: Program, bytesPerNumber: number): number =>
  bytesPerNumber * Math.max(0, ...layerSites(program).map(({ inWidth, outWidth }) => inWidth + outWidth));

/** Every module that writes to a site has an A of its own. */
const siteNumbers = ({ inWidth, outWidth, modules }: Program["sites"][number]): number => modules.length * inWidth + outWidth;
