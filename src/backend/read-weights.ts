/**
 * Reads a checkpoint piece by piece into windows of a backend's memory, as many at once as there are windows.
 *
 * While one piece is converted or on its way to the device, others are read: a single read is slower than memory, and
 * a network's file system is much slower.
 */
import { ModelError } from "../core/errors.ts";
import type { Program } from "../model/program.ts";
import { DTYPE_BYTES, type TensorInfo, type WeightSource } from "../model/weight-source.ts";

/** Rows of a tensor that become rows of one matrix, or of a vector. */
export interface WeightPiece {
  /** Index into the program's weights. */
  readonly weight: number;
  readonly tensor: string;
  readonly dtype: TensorInfo["dtype"];
  /** First row within the tensor, and within the weight, where matrices of experts are stacked. */
  readonly tensorRow: number;
  readonly row: number;
  readonly numRows: number;
  readonly numBytes: number;
}

/** What was read so far, as stored in the checkpoint. */
export interface WeightProgress {
  readonly numBytes: number;
  readonly totalBytes: number;
}

export interface WeightReader {
  readonly program: Program;
  readonly source: WeightSource;
  /** Where pieces are read to; each holds the largest row. */
  readonly windows: readonly Uint8Array[];
  /**
   * Takes a piece out of its window, which is then written to again.
   *
   * @returns the first row of the piece that has a number that is not finite, `null` for none
   */
  readonly place: (piece: WeightPiece, window: number) => Promise<number | null> | number | null;
  readonly onProgress?: ((progress: WeightProgress) => void) | undefined;
}

/** @throws {ModelError} `model_invalid` for NaN or infinity, naming tensor, file and row, or for a file that cannot be read */
export async function readWeights({ program, source, windows, place, onProgress }: WeightReader): Promise<void> {
  const pieces = weightPieces(program, source, Math.min(...windows.map(({ length }) => length)));
  const totalBytes = pieces.reduce((sum, piece) => sum + piece.numBytes, 0);
  const order = pieces.entries();
  /** Of the earliest piece that failed, so that the same damage is always told the same way. */
  let failure: { readonly index: number; readonly thrown: unknown } | null = null;
  let numBytes = 0;
  const worker = async (bytes: Uint8Array, window: number): Promise<void> => {
    for (const [index, piece] of order) {
      try {
        const rows = [piece.tensor, piece.tensorRow, piece.numRows, bytes.subarray(0, piece.numBytes)] as const;
        await (source.readRowsAsync?.(...rows) ?? source.readRows(...rows));
        const bad = await place(piece, window);
        if (bad !== null) throw notFinite(piece, bad, source.info(piece.tensor).file);
      } catch (thrown) {
        if (failure === null || index < failure.index) failure = { index, thrown };
      }
      // Pieces that others began are ended: nothing may write to a window whose backend is closed.
      if (failure !== null) return;
      numBytes += piece.numBytes;
      onProgress?.({ numBytes, totalBytes });
    }
  };
  await Promise.all(windows.map(worker));
  if (failure !== null) throw (failure as { readonly thrown: unknown }).thrown;
}

/** Every weight from its first row to its last, cut where a window or a matrix ends. */
export function weightPieces({ weights }: Program, source: WeightSource, windowBytes: number): readonly WeightPiece[] {
  const pieces: WeightPiece[] = [];
  weights.forEach(({ parts, rows, cols }, weight) => {
    let row = 0;
    for (const { tensor, rows: tensorRows } of parts) {
      const { dtype } = source.info(tensor);
      const rowBytes = cols * DTYPE_BYTES[dtype];
      const rowsPerRead = Math.max(1, Math.floor(windowBytes / rowBytes));
      for (let tensorRow = 0, numRows = 0; tensorRow < tensorRows; tensorRow += numRows) {
        numRows = Math.min(rowsPerRead, tensorRows - tensorRow, rows - (row % rows));
        pieces.push({ weight, tensor, dtype, tensorRow, row, numRows, numBytes: numRows * rowBytes });
        row += numRows;
      }
    }
  });
  return pieces;
}

/** @returns bytes that hold at least one row of every weight */
export const largestRowBytes = ({ weights }: Program): number => Math.max(...weights.map(({ cols }) => cols * DTYPE_BYTES.F32));

const notFinite = ({ tensor, tensorRow }: WeightPiece, bad: number, file: string | undefined): ModelError =>
  new ModelError(
    "model_invalid",
    `tensor ${tensor}${file === undefined ? "" : ` of ${file}`} has a value that is not finite in row ${tensorRow + bad}; the checkpoint is damaged`,
  );
