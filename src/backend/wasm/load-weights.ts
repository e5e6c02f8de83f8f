/** Reads a checkpoint's tensors and repacks them as panels, straight into the pool's memory. */
import type { Program, WeightSpec } from "../../model/program.ts";
import type { BackendOptions } from "../backend.ts";
import { largestRowBytes, readWeights } from "../read-weights.ts";
import { DTYPE, formatOf } from "./formats.ts";
import { align } from "./memory.ts";
import type { WasmExports } from "./module.ts";

/** While one window is packed, the other is read. */
const NUM_WINDOWS = 2;
/** Of each window, or one row where a row is larger. */
const WINDOW_BYTES = 4 << 20;

const windowBytes = (program: Program): number => align(Math.max(WINDOW_BYTES, largestRowBytes(program)));

/** Bytes that source rows are read to. */
export const windowsBytes = (program: Program): number => NUM_WINDOWS * windowBytes(program);

/** Of the vector, or of each matrix where there are several; every one starts on a cache line. */
export function matrixBytes(exports: WasmExports, weight: WeightSpec, format: number): number {
  return align(weight.kind === "vector" ? weight.rows * 4 : exports.matrix_bytes(formatOf(weight, format), weight.rows, weight.cols) >>> 0);
}

export interface WeightTarget {
  readonly exports: WasmExports;
  readonly memory: WebAssembly.Memory;
  readonly format: number;
  /** Byte offset of each weight's memory, zero-filled. */
  readonly at: readonly number[];
  /** Byte offset of `windowsBytes(program)` free bytes. */
  readonly windows: number;
}

/** @throws {ModelError} `model_invalid` as `readWeights` */
export function loadWeights({ program, weights: source, onWeights }: Pick<BackendOptions, "program" | "weights" | "onWeights">, to: WeightTarget): Promise<void> {
  const { exports, memory, format } = to;
  const windows = Array.from({ length: NUM_WINDOWS }, (_, i) => new Uint8Array(memory.buffer, to.windows + i * windowBytes(program), windowBytes(program)));
  return readWeights({
    program,
    source,
    windows,
    onProgress: onWeights,
    place({ weight: id, dtype, row, numRows, numBytes }, window) {
      const weight = program.weights[id]!;
      const ownRow = row % weight.rows;
      const target = to.at[id]! + Math.floor(row / weight.rows) * matrixBytes(exports, weight, format);
      const view = windows[window]!.subarray(0, numBytes);
      // A vector is laid down as a plain run of floats: a one-column matrix would be padded by panels.
      const bad =
        weight.kind === "vector"
          ? copyVector(memory, view, dtype, target + ownRow * 4, numRows)
          : exports.panel_pack(formatOf(weight, format), target, weight.rows, weight.cols, ownRow, view.byteOffset, DTYPE[dtype], numRows);
      return bad === 0 ? null : bad - 1;
    },
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
