/** A small memory of its own in which matrices become panels, away from the running pool. */
import { AdapterError, invariant } from "../../core/errors.ts";
import type { AdapterMatrix } from "../../lora/adapter-weights.ts";
import { DTYPE, PANEL_ROWS } from "./formats.ts";
import { align } from "./memory.ts";
import { createMemory, instantiate, RESERVED_BYTES, STACK_BYTES, WASM_PAGE_BYTES, type WasmExports } from "./module.ts";

/** The event loop gets a turn after this much work. */
const SLICE_MS = 4;
/** Large matrices pass through in pieces: a WebAssembly memory never shrinks. */
const PIECE_BYTES = 4 << 20;

/** The base matrix of a site, as the device holds it. */
export interface Panels {
  readonly bytes: Uint8Array;
  readonly format: number;
  readonly rows: number;
}

export class StagingMemory {
  readonly exports: WasmExports;
  readonly #memory: WebAssembly.Memory;
  readonly #base = RESERVED_BYTES + STACK_BYTES;
  #sliceEnds = 0;

  constructor(module: WebAssembly.Module) {
    this.#memory = createMemory(this.#base);
    this.exports = instantiate(module, this.#memory, this.#base);
  }

  /** Lets the event loop have a turn when it is time to. */
  async pause(): Promise<void> {
    if (performance.now() <= this.#sliceEnds) return;
    await Bun.sleep(0);
    this.#sliceEnds = performance.now() + SLICE_MS;
  }

  /** @returns addresses of regions of these many bytes; what was there before is lost */
  reserve<K extends string>(sizes: Readonly<Record<K, number>>): Record<K, number> {
    let end = this.#base;
    const places: Record<string, number> = {};
    for (const [name, numBytes] of Object.entries<number>(sizes)) {
      places[name] = end;
      end += align(numBytes);
    }
    const missing = end - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / WASM_PAGE_BYTES));
    return places;
  }

  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, at, length);
  }

  floats(at: number, length: number): Float32Array {
    return new Float32Array(this.#memory.buffer, at, length);
  }

  /**
   * Packs matrices stacked along rows.
   *
   * @returns the panels, valid until the next call
   * @throws {AdapterError} `adapter_invalid` when a matrix holds NaN or infinity
   */
  pack(format: number, rows: number, cols: number, matrices: readonly AdapterMatrix[]): Uint8Array {
    const numBytes = this.exports.matrix_bytes(format, rows, cols) >>> 0;
    const { panels, source } = this.reserve({ panels: numBytes, source: Math.max(0, ...matrices.map((matrix) => matrix.bytes.length)) });
    this.bytes(panels, numBytes).fill(0);
    let row = 0;
    for (const matrix of matrices) {
      invariant(matrix.cols === cols, "matrices of one site have one width");
      this.bytes(source, matrix.bytes.length).set(matrix.bytes);
      const bad = this.exports.panel_pack(format, panels, rows, cols, row, source, DTYPE[matrix.dtype], matrix.rows);
      if (bad !== 0) {
        throw new AdapterError("adapter_invalid", `the adapter has a value that is not finite in row ${bad - 1} of a matrix`);
      }
      row += matrix.rows;
    }
    return this.bytes(panels, numBytes);
  }

  /** Packs a matrix of any size a piece at a time; pieces follow each other in the packed matrix. */
  async packPieces(format: number, matrix: AdapterMatrix, take: (panels: Uint8Array, offset: number) => boolean): Promise<boolean> {
    const { dtype, rows, cols, bytes } = matrix;
    const step = Math.max(1, Math.floor(PIECE_BYTES / (cols * 4 * PANEL_ROWS))) * PANEL_ROWS;
    const rowBytes = bytes.length / rows;
    let offset = 0;
    for (let row = 0; row < rows; row += step) {
      const count = Math.min(step, rows - row);
      const panels = this.pack(format, count, cols, [{ dtype, rows: count, cols, bytes: bytes.subarray(row * rowBytes, (row + count) * rowBytes) }]);
      if (!take(panels, offset)) return false;
      offset += panels.length;
      await this.pause();
    }
    return true;
  }
}
