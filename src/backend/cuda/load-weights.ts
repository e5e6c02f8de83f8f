/** Reads a checkpoint's tensors into page-locked windows, from which the engine copies and converts them. */
import type { TensorInfo } from "../../model/weight-source.ts";
import type { BackendOptions } from "../backend.ts";
import { largestRowBytes, readWeights } from "../read-weights.ts";
import type { CudaEngine } from "./addon.ts";

/** Reads under way at once: the bus takes what some ten threads read out of the system's cache. */
const NUM_WINDOWS = 8;
/** Of each window, or one row where a row is larger. */
const WINDOW_BYTES = 16 << 20;

export const DTYPE: Readonly<Record<TensorInfo["dtype"], number>> = { F32: 0, F16: 1, BF16: 2 };

/** @throws {ModelError} `model_invalid` as `readWeights` */
export function loadWeights({ program, weights: source, onWeights }: Pick<BackendOptions, "program" | "weights" | "onWeights">, engine: Pick<CudaEngine, "windows" | "loadRows">): Promise<void> {
  const windows = engine.windows(NUM_WINDOWS, Math.max(WINDOW_BYTES, largestRowBytes(program)));
  return readWeights({
    program,
    source,
    windows,
    onProgress: onWeights,
    place: ({ weight, dtype, row, numRows, numBytes }, window) => engine.loadRows(weight, row, numRows, DTYPE[dtype], windows[window]!.subarray(0, numBytes)),
  });
}
