/** Reads a checkpoint's tensors and repacks them as panels, straight into the pool's memory. */
import { ModelError } from "../../core/errors.ts";
import type { Program, WeightSpec } from "../../model/program.ts";
import type { WeightSource } from "../../model/weight-source.ts";
import { DTYPE, DTYPE_BYTES } from "./formats.ts";
import type { WasmExports } from "./module.ts";

/** Source rows are read into a window of this size, or one row where a row is larger. */
const WINDOW_BYTES = 8 << 20;

export const windowBytes = (program: Program): number =>
  Math.max(WINDOW_BYTES, ...program.weights.map((weight) => weight.cols * 4));

export function weightBytes(exports: WasmExports, weight: WeightSpec, format: number): number {
  return weight.kind === "vector" ? weight.rows * 4 : exports.matrix_bytes(format, weight.rows, weight.cols) >>> 0;
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
    const matrix = weight.kind === "matrix";
    let row = 0;
    for (const part of weight.parts) {
      const { dtype } = source.info(part.tensor);
      const rowBytes = weight.cols * DTYPE_BYTES[dtype];
      const rowsPerRead = Math.max(1, Math.floor(windowSize / rowBytes));
      for (let done = 0; done < part.rows; done += rowsPerRead) {
        const numRows = Math.min(rowsPerRead, part.rows - done);
        const view = new Uint8Array(memory.buffer, window, numRows * rowBytes);
        source.readRows(part.tensor, done, numRows, view);
        const bad = matrix
          ? exports.panel_pack(format, at[id]!, weight.rows, weight.cols, row, window, DTYPE[dtype], numRows)
          : copyVector(memory, view, dtype, at[id]! + row * 4, numRows);
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
