/**
 * What a device does for the rest of the program. Two implementations: `wasm/` and, on NVIDIA GPUs, `cuda/`.
 *
 * A backend is opened with a forward program and its weights, then takes steps in order. It owns
 * all device memory; callers say what lies where in its pool of extents, and name pages and slots by number.
 */
import type { SlotId } from "../core/ids.ts";
import type { Step, StepResult } from "../core/step.ts";
import type { DeviceNumbers } from "../lora/adapter-report.ts";
import type { AdapterForm, AdapterWeights } from "../lora/adapter-weights.ts";
import type { Program } from "../model/program.ts";
import type { WeightSource } from "../model/weight-source.ts";
import type { WeightProgress } from "./read-weights.ts";

export type WeightFormat = "float32" | "bfloat16" | "int8";

export interface BackendOptions {
  readonly program: Program;
  readonly weights: WeightSource;
  readonly format: WeightFormat;
  /** Compute threads, at least 1. */
  readonly numThreads: number;
  /** Most rows in one step. */
  readonly maxRows: number;
  /** Most sequences in one step; also the most rows sampled. */
  readonly maxSequences: number;
  /** Memory for KV pages and adapters, in extents of one page (`pageTokens` positions of every layer) each. */
  readonly numExtents: number;
  /** Most of them that are KV pages at once. */
  readonly numPages: number;
  /** Adapters attached at once. */
  readonly numSlots: number;
  /** Hears how much of the weights was read. */
  readonly onWeights?: ((progress: WeightProgress) => void) | undefined;
}

export interface BackendInfo {
  readonly name: "wasm" | "cuda";
  /** One line for people: "WebAssembly SIMD, 2 threads, bfloat16 weights". */
  readonly description: string;
  readonly pageTokens: number;
  readonly numExtents: number;
  readonly extentBytes: number;
  readonly numPages: number;
  readonly numSlots: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly weightBytes: number;
  /** How matrices of adapters are held; left out where nothing is rounded. */
  readonly adapterNumbers?: DeviceNumbers;
  /** Forms of adapters served beyond plain LoRA; left out for none. */
  readonly adapterForms?: readonly AdapterForm[];
  /** Whether `StepSample.allowed` is kept to; left out for no. */
  readonly allowsTokens?: boolean;
  /** Steps that may be given to it while another is under way; left out for 0. */
  readonly stepsAhead?: 0 | 1;
}

/** An adapter in the backend's own layout, ready to be copied to the device. Immutable. */
export interface AdapterImage {
  readonly digest: string;
  /** Bytes on the host and, rounded up to whole extents, on the device. */
  readonly numBytes: number;
}

export interface Backend {
  readonly info: BackendInfo;

  /**
   * Runs one step.
   *
   * Steps run one after the other in the order given, and their results come in that order. A step that is given ahead may
   * name what the one before it samples (`awaited` in `core/step.ts`). The record and all that it refers to may change
   * once this returns.
   *
   * @throws {NativeError} `backend_failed` when the device stops working; the backend is then unusable
   */
  run(step: Step): Promise<StepResult>;

  /** Lays an adapter out for this device. Does not touch device memory. The adapter uses no form that `info` does not name. */
  stage(adapter: AdapterWeights): Promise<AdapterImage>;

  /**
   * Copies an image into as many extents as it takes, from `extent` on, and points a free slot at it. No step that has not finished names the
   * slot or, as pages, the extents.
   *
   * @throws {AdapterError} `adapter_too_large` when there is no memory for the work areas of its rank
   */
  attach(slot: SlotId, extent: number, image: AdapterImage): Promise<void>;

  /** Empties a slot, whose extents may become something else. It must not be named by a step that has not finished. */
  detach(slot: SlotId): void;

  close(): Promise<void>;
}
