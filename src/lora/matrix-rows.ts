/** Rows and columns of adapter matrices, moved as bytes. */
import { AdapterError } from "../core/errors.ts";
import type { AdapterMatrix } from "./adapter-weights.ts";

const DTYPE_BYTES = { F32: 4, F16: 2, BF16: 2 } as const;

/** @throws {AdapterError} `adapter_invalid` when the parts do not fit together */
export function stackRows(name: string, parts: readonly AdapterMatrix[]): AdapterMatrix {
  const [first] = checkParts(name, parts, (a, b) => a.cols === b.cols);
  if (parts.length === 1) return first;
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  return { ...first, rows, bytes: new Uint8Array(Buffer.concat(parts.map(({ bytes }) => bytes))) };
}

/** @throws {AdapterError} `adapter_invalid` when the parts do not fit together */
export function joinColumns(name: string, parts: readonly AdapterMatrix[]): AdapterMatrix {
  const [first] = checkParts(name, parts, (a, b) => a.rows === b.rows);
  if (parts.length === 1) return first;
  const cols = parts.reduce((sum, part) => sum + part.cols, 0);
  const size = DTYPE_BYTES[first.dtype];
  const bytes = new Uint8Array(first.rows * cols * size);
  let column = 0;
  for (const part of parts) {
    const width = part.cols * size;
    for (let row = 0; row < part.rows; row++) {
      bytes.set(part.bytes.subarray(row * width, (row + 1) * width), (row * cols + column) * size);
    }
    column += part.cols;
  }
  return { ...first, cols, bytes };
}

/** The matrix of runs of rows, in the order given. */
export function pickRows(matrix: AdapterMatrix, runs: readonly (readonly [start: number, count: number])[]): AdapterMatrix {
  const width = matrix.cols * DTYPE_BYTES[matrix.dtype];
  const rows = runs.reduce((sum, [, count]) => sum + count, 0);
  const bytes = new Uint8Array(rows * width);
  let at = 0;
  for (const [start, count] of runs) {
    bytes.set(matrix.bytes.subarray(start * width, (start + count) * width), at);
    at += count * width;
  }
  return { ...matrix, rows, bytes };
}

function checkParts(
  name: string,
  parts: readonly AdapterMatrix[],
  fit: (a: AdapterMatrix, b: AdapterMatrix) => boolean,
): readonly [AdapterMatrix, ...AdapterMatrix[]] {
  const [first, ...rest] = parts as readonly [AdapterMatrix, ...AdapterMatrix[]];
  if (rest.every((part) => part.dtype === first.dtype && fit(first, part))) return [first, ...rest];
  const shapes = parts.map(({ dtype, rows, cols }) => `${dtype} [${rows}, ${cols}]`).join(", ");
  throw new AdapterError("adapter_invalid", `the parts of ${name} do not fit together: ${shapes}`);
}
