/** Where a backend reads the checkpoint's tensors from while it opens. */
export interface WeightSource {
  /** Shape and dtype as stored; a vector has `cols` 1, matrices of three dimensions are stacked along rows. */
  info(tensor: string): TensorInfo;
  /**
   * Reads rows `[rowStart, rowStart + numRows)` into the start of `target`, as stored, little-endian.
   * `target` may view shared memory and holds at least `numRows * cols * bytes per element`.
   */
  readRows(tensor: string, rowStart: number, numRows: number, target: Uint8Array): void;
  /** The same beside other work, several at once; left out where `readRows` takes no time. */
  readRowsAsync?(tensor: string, rowStart: number, numRows: number, target: Uint8Array): Promise<void>;
}

export interface TensorInfo {
  readonly dtype: "F32" | "F16" | "BF16";
  readonly rows: number;
  readonly cols: number;
  /** Name of the file that holds it; left out where there is none. */
  readonly file?: string;
}

export { DTYPE_BYTES } from "../formats/safetensors.ts";
