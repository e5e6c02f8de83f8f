/** Loads the native addon, or says why there is none. */
import { createRequire } from "node:module";
import { NativeError } from "../../core/errors.ts";
import { ABI_VERSION } from "../../core/step-layout.ts";
import { findAddon } from "./find-addon.ts";
import { ADDON_VERSION } from "./layout.ts";

export interface CudaDevice {
  readonly index: number;
  readonly name: string;
  /** Compute capability. */
  readonly major: number;
  readonly minor: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
}

export interface CudaProbe {
  readonly devices: readonly CudaDevice[];
  /** Why there are none; empty when there are. */
  readonly code: string;
  readonly reason: string;
}

/** What `native/cuda/binding/addon.cc` reads. */
export interface EngineOptions {
  readonly device: number;
  /** Empty to look in the usual places; `none` to do without. */
  readonly cublasltPath: string;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly numExtents: number;
  readonly extentBytes: number;
  readonly numPages: number;
  readonly numSlots: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly rotaryDim: number;
  readonly vocabSize: number;
  readonly maxContext: number;
  /** 0 for a model without experts. */
  readonly numExperts: number;
  readonly topK: number;
  readonly longestWindow: number;
  readonly scoreScale: number;
  /** `rows`: one of `BUFFER_ROWS`. */
  readonly buffers: readonly { readonly width: number; readonly rows: number; readonly isFloat: boolean }[];
  /** `kind`: one of `WEIGHT_KIND`; `numExperts` matrices of `rows` rows behind each other. */
  readonly weights: readonly { readonly rows: number; readonly cols: number; readonly kind: number; readonly numExperts: number }[];
  /** `kind`: one of `SITE_KIND`; `borders`: where outputs of a site's modules begin and end, ascending; `expert`: whose matrix of its weight it is. */
  readonly sites: readonly { readonly kind: number; readonly inWidth: number; readonly borders: Int32Array; readonly expert: number }[];
  readonly launches: Int32Array;
}

export interface SourceMatrix {
  readonly dtype: number;
  readonly rows: number;
  readonly cols: number;
  readonly bytes: Uint8Array;
}

export interface SourceDelta {
  readonly site: number;
  readonly offset: number;
  readonly width: number;
  readonly rank: number;
  readonly scale: number;
  readonly a: SourceMatrix;
  readonly b: SourceMatrix;
  /** `[width]`; left out for none. */
  readonly bias?: Float32Array;
  readonly magnitude?: Float32Array;
}

/** Rows of a site's weight or bias. */
export interface SourceReplacement {
  readonly site: number;
  readonly ofBias: boolean;
  /** Of base weights: left out of the image where this base has the same numbers. */
  readonly isCopy: boolean;
  readonly firstRow: number;
  /** Each row, ascending; left out for a run from `firstRow` on. */
  readonly rows?: Int32Array;
  readonly values: SourceMatrix;
}

export interface StagedImage {
  /** Opaque; page-locked memory that goes when the last reference does. */
  readonly image: unknown;
  readonly numBytes: number;
  readonly maxTotalRank: number;
}

export interface LaunchTime {
  /** Index of the first launch of its kind. */
  readonly launch: number;
  /** Of a linear operation with adapters: 7 for all of it, 1 its base product, 2 shrink, 4 expand. */
  readonly parts: number;
  readonly count: number;
  /** Of one launch. */
  readonly micros: number;
}

/** `[rows, width]` of a buffer of the program; rows are the step's, the sampled ones, or those of experts in an order of the device's. */
export interface BufferValues {
  readonly buffer: number;
  readonly values: Float32Array;
}

export interface EngineStats {
  readonly description: string;
  readonly graphSteps: number;
  readonly eagerSteps: number;
  readonly graphs: number;
  readonly weightBytes: number;
  readonly activationBytes: number;
}

/** Errors carry `code`. */
export interface CudaEngine {
  /** Page-locked memory, which the device reads by itself; it goes with the last reference to it. */
  windows(count: number, numBytes: number): readonly Uint8Array[];
  /**
   * Copies rows out of a window and converts them; used before the first step. The bytes must not change meanwhile.
   *
   * @returns the first of these rows that has a number that is not finite, `null` for none
   */
  loadRows(weight: number, firstRow: number, numRows: number, dtype: number, bytes: Uint8Array): Promise<number | null>;
  loadRopeTable(table: Float32Array): void;
  fillRandom(seed: number): Promise<void>;
  warmUp(): Promise<void>;
  run(words: Int32Array): Promise<Int32Array<ArrayBuffer>>;
  /** Time of each kind of launch of a step, which is not computed. */
  profile(words: Int32Array): Promise<readonly LaunchTime[]>;
  /** Runs `count` launches of a step from `first` on, one by one: what `CudaBackend.runLaunches` tells. */
  runLaunches(words: Int32Array, first: number, count: number, inputs: readonly BufferValues[], outputs: readonly number[]): Promise<{
    readonly buffers: readonly Float32Array[];
    readonly record: Int32Array<ArrayBuffer>;
  }>;
  stage(deltas: readonly SourceDelta[], replacements: readonly SourceReplacement[]): Promise<StagedImage>;
  attach(slot: number, offset: number, image: unknown): Promise<void>;
  stats(): EngineStats;
  close(): void;
}

export interface CudaAddon {
  /** Of the step block and the result. */
  readonly abiVersion: number;
  /** Of everything else that both sides must agree on. */
  readonly version: number;
  probe(): CudaProbe;
  readonly Engine: new (options: EngineOptions) => CudaEngine;
}

/** @throws {NativeError} `backend_unavailable`, with what was tried and what to do */
export function loadAddon(env: Readonly<Record<string, string | undefined>> = process.env): CudaAddon {
  const path = findAddon(env);
  let addon: CudaAddon;
  try {
    addon = createRequire(import.meta.url)(path) as CudaAddon;
  } catch (cause) {
    throw unavailable(`the CUDA addon could not be loaded: ${loaderReason(cause)}`, cause);
  }
  if (addon.abiVersion !== ABI_VERSION || addon.version !== ADDON_VERSION) throw unavailable("the CUDA addon is of another version; build it again");
  return addon;
}

const unavailable = (message: string, cause?: unknown): NativeError =>
  new NativeError("backend_unavailable", message, { field: "backend", ...(cause === undefined ? {} : { cause }) });

/** The dynamic loader's words without the path they begin with. */
function loaderReason(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : String(cause);
  return text.split("\n")[0]!.replace(/^\S+\.node: /, "");
}
