/**
 * What a device does for the rest of the program. Two implementations: `wasm/` and, on NVIDIA GPUs, `cuda/`.
 *
 * A backend is opened with a forward program and its weights, then takes steps one at a time. It owns
 * all device memory; callers name pages and slots by number.
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
  /** Pages of KV memory, each `pageTokens` positions of every layer. */
  readonly numPages: number;
  /** Adapters attached at once. */
  readonly numSlots: number;
  /** Device bytes for attached adapters. */
  readonly adapterBytes: number;
  /** Hears how much of the weights was read. */
  readonly onWeights?: ((progress: WeightProgress) => void) | undefined;
}

export interface BackendInfo {
  readonly name: "wasm" | "cuda";
  /** One line for people: "WebAssembly SIMD, 2 threads, bfloat16 weights". */
  readonly description: string;
  readonly pageTokens: number;
  readonly numPages: number;
  readonly numSlots: number;
  readonly adapterBytes: number;
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly weightBytes: number;
  readonly kvBytes: number;
  /** How matrices of adapters are held; left out where nothing is rounded. */
  readonly adapterNumbers?: DeviceNumbers;
  /** Forms of adapters served beyond plain LoRA; left out for none. */
  readonly adapterForms?: readonly AdapterForm[];
  /** Whether `StepSample.allowed` is kept to; left out for no. */
  readonly allowsTokens?: boolean;
}

/** An adapter in the backend's own layout, ready to be copied to the device. Immutable. */
export interface AdapterImage {
  readonly digest: string;
  /** Bytes on the host and, rounded up to the allocation unit, on the device. */
  readonly numBytes: number;
}

export interface Backend {
  readonly info: BackendInfo;

  /**
   * Runs one step.
   *
   * Steps run one after the other in the order submitted; `attach` and `detach` take effect between them.
   *
   * @throws {NativeError} `backend_failed` when the device stops working; the backend is then unusable
   */
  run(step: Step): Promise<StepResult>;

  /** Lays an adapter out for this device. Does not touch device memory. The adapter uses no form that `info` does not name. */
  stage(adapter: AdapterWeights): Promise<AdapterImage>;

  /** Device bytes that an image takes once attached. */
  deviceBytes(image: AdapterImage): number;

  /**
   * Copies an image into a free slot. The slot must not be named by a step that has not finished.
   *
   * @throws {AdapterError} `adapter_too_large` when no run of free device memory holds it
   */
  attach(slot: SlotId, image: AdapterImage): Promise<void>;

  /** Where an attached slot's bytes begin in the device memory of adapters; left out where that is not told. */
  offsetBytes?(slot: SlotId): number | null;

  /** Frees a slot's memory. The slot must not be named by a step that has not finished. */
  detach(slot: SlotId): void;

  close(): Promise<void>;
}
