/** The WASM binary and the types of what it exports. */
import { NativeError } from "../../core/errors.ts";
import { ownFile } from "../../core/own-files.ts";
import { askForHugePages } from "./huge-pages.ts";

const BINARY = ownFile("native/wasm/lorikeet.wasm");

/** Addresses and sizes are unsigned 32-bit; JavaScript sees results as signed, so callers apply `>>> 0`. */
export interface WasmExports {
  stackRestore(top: number): void;
  pool_worker(control: number, thread: number): void;
  matrix_bytes(format: number, n: number, k: number): number;
  panel_pack(
    format: number,
    matrix: number,
    n: number,
    k: number,
    row0: number,
    source: number,
    sourceDtype: number,
    numRows: number,
  ): number;
  panel_read_row(format: number, matrix: number, n: number, k: number, row: number, out: number): void;
  dora_gains(
    format: number,
    base: number,
    n: number,
    k: number,
    row0: number,
    numRows: number,
    a: number,
    rank: number,
    bFormat: number,
    b: number,
    bRows: number,
    bRow0: number,
    scale: number,
    magnitude: number,
    gain: number,
    scratch: number,
  ): void;
  dora_column_squares(
    format: number,
    base: number,
    n: number,
    k: number,
    b: number,
    rank: number,
    aFormat: number,
    a: number,
    aColumns: number,
    aColumn0: number,
    scale: number,
    sums: number,
    scratch: number,
  ): void;
  dora_column_gains(k: number, sums: number, magnitude: number, gain: number): void;
  activation_bytes(format: number, numRows: number, k: number): number;
  linear_scratch_bytes(): number;
}

/** Bytes of C stack that each instance gets. */
export const STACK_BYTES = 65536;
/** Below this lie the binary's own data and its unused default stack. */
export const RESERVED_BYTES = 1 << 20;
export const WASM_PAGE_BYTES = 65536;
const MAX_PAGES = 65536;

export async function compileModule(): Promise<WebAssembly.Module> {
  try {
    return await WebAssembly.compile(await Bun.file(BINARY).arrayBuffer());
  } catch (cause) {
    throw new NativeError("backend_unavailable", "the WebAssembly binary could not be loaded; run native/wasm/build.sh", {
      cause,
    });
  }
}

/** @throws {NativeError} `backend_unavailable` when the host cannot give the memory */
export function createMemory(numBytes: number): WebAssembly.Memory {
  const initial = Math.ceil(numBytes / WASM_PAGE_BYTES);
  if (initial > MAX_PAGES) {
    throw new NativeError(
      "backend_unavailable",
      `the model needs ${(numBytes / 2 ** 30).toFixed(1)} GiB, but the WebAssembly backend addresses at most 4 GiB; ` +
        "use int8 weights, fewer KV pages, a smaller model, or a GPU",
      { details: { numBytes } },
    );
  }
  try {
    const memory = new WebAssembly.Memory({ initial, maximum: MAX_PAGES, shared: true });
    askForHugePages(memory);
    return memory;
  } catch (cause) {
    throw new NativeError("backend_unavailable", `the system gave no memory of ${initial * WASM_PAGE_BYTES} bytes`, { cause });
  }
}

/** Every instance over one memory needs a stack of its own: they all start with the same stack pointer. */
export function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, stackTop: number): WasmExports {
  const instance = new WebAssembly.Instance(module, { env: { memory } });
  const exports = instance.exports as unknown as WasmExports;
  exports.stackRestore(stackTop);
  return exports;
}
