/** Reads a checkpoint's tensors and repacks them as panels, straight into the pool's memory. */
import { ModelError } from "../../core/errors.ts";
import type { Program, WeightSpec } from "../../model/program.ts";
import type { WeightSource } from "../../model/weight-source.ts";
import { DTYPE, DTYPE_BYTES, formatOf } from "./formats.ts";
import { align } from "./memory.ts";
import type { WasmExports } from "./module.ts";

/** Source rows are read into a window of this size, or one row where a row is larger. */
const WINDOW_BYTES = 8 << 20;

export const windowBytes = (program: Program): number =>
  Math.max(WINDOW_BYTES, ...program.weights.map((weight) => weight.cols * 4));

/** Of the vector, or of each matrix where there are several; every one starts on a cache line. */
export function matrixBytes(exports: WasmExports, weight: WeightSpec, format: number): number {
  return align(weight.kind === "vector" ? weight.rows * 4 : exports.matrix_bytes(formatOf(weight, format), weight.rows, weight.cols) >>> 0);
}

/**
 * @param at byte offset of each weight's memory, zero-filled
 * @param window byte offset of `windowBytes(program)` free bytes
 * @throws {ModelError} `model_invalid` for NaN or infinity, naming tensor and row
 */
export function loadWeights(
  program: Program,
  source: WeightSource,
  format: number,
  exports: WasmExports,
  memory: WebAssembly.Memory,
  at: readonly number[],
  window: number,
): void {
  const windowSize = windowBytes(program);
  program.weights.forEach((weight, id) => {
    // A vector is laid down as a plain run of floats: a one-column matrix would be padded by panels.
    const isVector = weight.kind === "vector";
    const stride = matrixBytes(exports, weight, format);
    let row = 0;
    for (const part of weight.parts) {
      const { dtype } = source.info(part.tensor);
      const rowBytes = weight.cols * DTYPE_BYTES[dtype];
      const rowsPerRead = Math.max(1, Math.floor(windowSize / rowBytes));
      for (let done = 0, numRows = 0; done < part.rows; done += numRows) {
        const expert = Math.floor(row / weight.rows);
        const ownRow = row - expert * weight.rows;
        numRows = Math.min(rowsPerRead, part.rows - done, weight.rows - ownRow);
        const view = new Uint8Array(memory.buffer, window, numRows * rowBytes);
        source.readRows(part.tensor, done, numRows, view);
        const target = at[id]! + expert * stride;
        const bad = !isVector
          ? exports.panel_pack(formatOf(weight, format), target, weight.rows, weight.cols, ownRow, window, DTYPE[dtype], numRows)
          : copyVector(memory, view, dtype, target + ownRow * 4, numRows);
        if (bad !== 0) {
          throw new ModelError(
            "model_invalid",
            `tensor ${part.tensor} has a value that is not finite in row ${done + bad - 1}; the checkpoint is damaged`,
          );
        }
        row += numRows;
      }
    }
  });
}

/** @returns 0, or 1 + the index of the first value that is not finite */
function copyVector(
  memory: WebAssembly.Memory,
  source: Uint8Array,
  dtype: keyof typeof DTYPE,
  at: number,
  length: number,
): number {
  const target = new Float32Array(memory.buffer, at, length);
  const bytes = new DataView(source.buffer, source.byteOffset, source.byteLength);
  for (let i = 0; i < length; i++) {
    const value =
      dtype === "F32"
        ? bytes.getFloat32(i * 4, true)
        : dtype === "F16"
          ? bytes.getFloat16(i * 2, true)
          : bfloat16(bytes.getUint16(i * 2, true));
    if (!Number.isFinite(value)) return i + 1;
    target[i] = value;
  }
  return 0;
}

const bits = new DataView(new ArrayBuffer(4));
function bfloat16(half: number): number {
  bits.setUint32(0, half << 16);
  return bits.getFloat32(0);
}
