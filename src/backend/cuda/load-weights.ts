/** Reads a checkpoint's tensors and hands them to the engine, which converts them on the device. */
import { ModelError } from "../../core/errors.ts";
import type { Program } from "../../model/program.ts";
import type { TensorInfo, WeightSource } from "../../model/weight-source.ts";
import type { CudaEngine } from "./addon.ts";

/** Rows are read into a window of this size, or one row where a row is larger. */
const WINDOW_BYTES = 64 << 20;

export const DTYPE: Readonly<Record<TensorInfo["dtype"], number>> = { F32: 0, F16: 1, BF16: 2 };
const DTYPE_BYTES: Readonly<Record<TensorInfo["dtype"], number>> = { F32: 4, F16: 2, BF16: 2 };

/** @throws {ModelError} `model_invalid` for NaN or infinity, naming tensor and row */
export function loadWeights(program: Program, source: WeightSource, engine: Pick<CudaEngine, "loadRows">): void {
  const largestRow = Math.max(...program.weights.map((weight) => weight.cols * 4));
  const window = new Uint8Array(Math.max(WINDOW_BYTES, largestRow));
  program.weights.forEach((weight, id) => {
    let row = 0;
    for (const part of weight.parts) {
      const { dtype } = source.info(part.tensor);
      const rowBytes = weight.cols * DTYPE_BYTES[dtype];
      const rowsPerRead = Math.max(1, Math.floor(window.length / rowBytes));
      for (let done = 0; done < part.rows; done += rowsPerRead) {
        const numRows = Math.min(rowsPerRead, part.rows - done);
        const view = window.subarray(0, numRows * rowBytes);
        source.readRows(part.tensor, done, numRows, view);
        try {
          engine.loadRows(id, row, numRows, DTYPE[dtype], view);
        } catch (cause) {
          if (!(cause instanceof Error) || (cause as { code?: unknown }).code !== "weight_invalid") throw cause;
          const bad = Number(cause.message) - row + done;
          throw new ModelError("model_invalid", `tensor ${part.tensor} has a value that is not finite in row ${bad}; the checkpoint is damaged`);
        }
        row += numRows;
      }
    }
  });
}
