/** Which backend computes, why, and what its device holds. */
import { NativeError } from "../core/errors.ts";
import type { Program } from "../model/program.ts";
import type { DeviceNumbers } from "../lora/adapter-report.ts";
import type { AdapterForm } from "../lora/adapter-weights.ts";
import type { Backend, BackendInfo, BackendOptions, WeightFormat } from "./backend.ts";
import { type CudaAddon, type CudaDevice, loadAddon } from "./cuda/addon.ts";
import { activationBytes, ADAPTER_FORMS as CUDA_FORMS, ADAPTER_NUMBERS, cudaPageBytes, openCudaBackend } from "./cuda/cuda-backend.ts";
import { PAGE_TOKENS as CUDA_PAGE_TOKENS } from "./cuda/layout.ts";
import { checkProgram, unservedPart } from "./cuda/lower-program.ts";
import { PAGE_TOKENS as WASM_PAGE_TOKENS } from "./wasm/layout.ts";
import { ADAPTER_FORMS as WASM_FORMS, kvPageBytes, openWasmBackend } from "./wasm/wasm-backend.ts";

export interface ChosenBackend {
  /** Why this one, in a few words. */
  readonly reason: string;
  readonly name: BackendInfo["name"];
  /** Known without a device, so that an adapter can be judged before anything is opened. */
  readonly adapterForms: readonly AdapterForm[];
  readonly adapterNumbers?: DeviceNumbers;
  readonly device: DeviceMemory;
  /**
   * This backend, or another for a model that has no kernels here; asked before anything is sized or opened.
   *
   * @throws {ModelError} `model_unsupported` where this one was asked for by name
   */
  forProgram(program: Program): ChosenBackend;
  open(options: BackendOptions): Promise<Backend>;
}

/** What callers need to know to size KV pages and adapters before a backend is open. */
export interface DeviceMemory {
  /** Positions per KV page. */
  readonly pageTokens: number;
  pageBytes(program: Program): number;
  /** Bytes that one number of an adapter takes at most. */
  readonly bytesPerAdapterNumber: number;
  weightBytes(program: Program, format: WeightFormat): number;
  /** What weights, KV pages and adapters may take together. */
  totalBytes(program: Program, maxRows: number, maxSequences: number): number;
  /** KV pages and adapters where nobody said how much. */
  readonly defaultKvBytes: number;
  /** Part of what weights and adapters leave that KV pages then take at most. */
  readonly defaultKvShare: number;
  readonly defaultAdapterBytes: number;
  /** Most sequences and most rows in one step where nobody said how many. */
  readonly defaultSequences: number;
  defaultRows(program: Program, format: WeightFormat): number;
}

const MIB = 2 ** 20;

/**
 * `auto` takes CUDA where the addon loads, a device answers and the model has kernels there, and WebAssembly elsewhere.
 *
 * @throws {NativeError} `backend_unavailable` when CUDA is asked for and there is none
 */
export function chooseBackend(wanted: "auto" | "wasm" | "cuda", load: () => CudaAddon = loadAddon): ChosenBackend {
  if (wanted === "wasm") return wasm("as asked");
  try {
    const addon = load();
    const { devices, reason } = addon.probe();
    if (devices[0] === undefined) throw new NativeError("backend_unavailable", reason, { field: "backend" });
    return cuda(addon, devices[0], wanted === "cuda");
  } catch (thrown) {
    if (!(thrown instanceof NativeError)) throw thrown;
    if (wanted === "auto") return wasm(thrown.message);
    throw new NativeError("backend_unavailable", `${thrown.message}; use --backend wasm, or auto`, { field: "backend", cause: thrown });
  }
}

const BYTES_PER_WEIGHT: Readonly<Record<WeightFormat, number>> = { float32: 4, bfloat16: 2, int8: 1.25 };

const weightBytes = ({ weights }: Program, format: WeightFormat): number =>
  BYTES_PER_WEIGHT[format] * weights.reduce((sum, { rows, cols, numExperts = 1 }) => sum + rows * cols * numExperts, 0);

const wasm = (reason: string): ChosenBackend => {
  const chosen: ChosenBackend = { ...WASM, reason, forProgram: () => chosen };
  return chosen;
};

const WASM: Omit<ChosenBackend, "reason" | "forProgram"> = {
  name: "wasm",
  adapterForms: WASM_FORMS,
  device: {
    pageTokens: WASM_PAGE_TOKENS,
    pageBytes: kvPageBytes,
    bytesPerAdapterNumber: 4,
    weightBytes,
    // A WebAssembly memory ends at 4 GiB.
    totalBytes: () => 4096 * MIB,
    defaultKvBytes: 512 * MIB,
    // Work areas grow into the rest.
    defaultKvShare: 0.5,
    defaultAdapterBytes: 256 * MIB,
    // Longer steps would keep a chat waiting for somebody else's prompt.
    defaultSequences: 64,
    defaultRows: () => 512,
  },
  open: openWasmBackend,
};

/** The largest graph's. */
const GPU_SEQUENCES = 256;
/** Prompts of so many rows keep the device's products at their full rate. */
const GPU_ROWS = 8192;
const LEAST_GPU_ROWS = 512;

/** As many rows as are of use, or fewer on a small device: their activations take at most a quarter of what the weights leave. */
function rowsThatFit(program: Program, leftBytes: number): number {
  let rows = GPU_ROWS;
  while (rows > LEAST_GPU_ROWS && activationBytes(program, rows, GPU_SEQUENCES) > leftBytes / 4) rows /= 2;
  return rows;
}

/** Left to the driver, to graphs and to other programs. */
const CUDA_SHARE = 0.94;

function cuda(addon: CudaAddon, device: CudaDevice, isAsked: boolean): ChosenBackend {
  const chosen: ChosenBackend = {
    ...onDevice(addon, device),
    reason: isAsked ? "as asked" : "a device answers",
    forProgram(program) {
      const unserved = unservedPart(program);
      if (unserved !== null && !isAsked) return wasm(unserved.reason);
      checkProgram(program);
      return chosen;
    },
  };
  return chosen;
}

const onDevice = (addon: CudaAddon, device: CudaDevice): Omit<ChosenBackend, "reason" | "forProgram"> => ({
  name: "cuda",
  adapterNumbers: ADAPTER_NUMBERS,
  adapterForms: CUDA_FORMS,
  device: {
    pageTokens: CUDA_PAGE_TOKENS,
    pageBytes: cudaPageBytes,
    bytesPerAdapterNumber: 2,
    weightBytes,
    totalBytes: (program, maxRows, maxSequences) => Math.max(0, device.freeBytes * CUDA_SHARE - activationBytes(program, maxRows, maxSequences)),
    defaultKvBytes: Infinity,
    defaultKvShare: 1,
    defaultAdapterBytes: device.freeBytes / 16,
    defaultSequences: GPU_SEQUENCES,
    defaultRows: (program, format) => rowsThatFit(program, device.freeBytes * CUDA_SHARE - weightBytes(program, format)),
  },
  open: (options) => openCudaBackend({ ...options, device: device.index }, addon),
});
