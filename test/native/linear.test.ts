/** The panel kernels, called one by one, against plain double arithmetic. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { DTYPE, FORMAT } from "../../src/backend/wasm/formats.ts";
import { compileModule, createMemory, instantiate, RESERVED_BYTES, STACK_BYTES, type WasmExports } from "../../src/backend/wasm/module.ts";
import { numbers } from "../helpers/tiny-program.ts";

interface LinearExports extends WasmExports {
  activation_pack(format: number, packed: number, x: number, ldx: number, rows: number, k: number, tile0: number, tile1: number): void;
  linear_panels(op: number, panel0: number, panel1: number, scratch: number): void;
}

const MEMORY_BYTES = 64 << 20;
const memory = createMemory(MEMORY_BYTES);
const module = await compileModule();
const wasm = instantiate(module, memory, RESERVED_BYTES + STACK_BYTES) as LinearExports;

let next = RESERVED_BYTES + STACK_BYTES;
const start = next;
const place = (numBytes: number): number => {
  const at = next;
  next += Math.ceil(numBytes / 64) * 64;
  new Uint8Array(memory.buffer, at, numBytes).fill(0);
  return at;
};
const reset = (): void => {
  next = start;
};
const floatsAt = (at: number, length: number): Float32Array => new Float32Array(memory.buffer, at, length);

interface Product {
  readonly format: keyof typeof FORMAT;
  readonly rows: number;
  readonly n: number;
  readonly k: number;
  readonly bias?: boolean;
  readonly add?: boolean;
  /** Output panels computed per call. */
  readonly chunk?: number;
  readonly seed?: number;
  /** The matrix is the last thing in memory, so that a read behind it traps. */
  readonly atEnd?: boolean;
  /** A value of x that replaces the drawn one. */
  readonly poison?: { readonly row: number; readonly column: number; readonly value: number };
}

/** Runs the kernels for rows `from .. from + count` of one fixed problem. */
function run(product: Product, from = 0, count = product.rows): Float32Array {
  const { format, rows, n, k, bias = false, add = false, chunk = 1000, seed = 1, atEnd = false, poison } = product;
  reset();
  const random = numbers(seed);
  const draw = (length: number): Float32Array => Float32Array.from({ length }, () => random());
  const weights = draw(n * k);
  const x = draw(rows * k);
  const biases = draw(n);
  const before = draw(rows * n);
  if (poison !== undefined) x[poison.row * k + poison.column] = poison.value;
  const id = FORMAT[format];

  const source = place(n * k * 4);
  floatsAt(source, n * k).set(weights);
  const matrixBytes = wasm.matrix_bytes(id, n, k);
  const matrix = atEnd ? Math.floor((MEMORY_BYTES - matrixBytes) / 64) * 64 : place(matrixBytes);
  new Uint8Array(memory.buffer, matrix, matrixBytes).fill(0);
  expect(wasm.panel_pack(id, matrix, n, k, 0, source, DTYPE.F32, n)).toBe(0);
  const input = place(count * k * 4);
  floatsAt(input, count * k).set(x.subarray(from * k, (from + count) * k));
  const packed = place(wasm.activation_bytes(id, count, k));
  const tiles = Math.ceil(count / 4);
  for (let tile = 0; tile < tiles; tile++) wasm.activation_pack(id, packed, input, k, count, k, tile, tile + 1);
  const y = place(count * n * 4);
  floatsAt(y, count * n).set(before.subarray(from * n, (from + count) * n));
  const biasAt = place(n * 4);
  floatsAt(biasAt, n).set(biases);
  const scratch = place(wasm.linear_scratch_bytes());
  const op = place(64);
  new Uint32Array(memory.buffer, op, 10).set([id, n, k, count, matrix, packed, bias ? biasAt : 0, y, n, add ? 1 : 0]);
  floatsAt(op, 11)[10] = add ? 0.75 : 1;
  const panels = Math.ceil(n / 16);
  for (let panel = 0; panel < panels; panel += chunk) wasm.linear_panels(op, panel, Math.min(panel + chunk, panels), scratch);
  return floatsAt(y, count * n).slice();
}

function expected({ rows, n, k, bias = false, add = false, seed = 1 }: Product): Float64Array {
  const random = numbers(seed);
  const draw = (length: number): Float32Array => Float32Array.from({ length }, () => random());
  const weights = draw(n * k);
  const x = draw(rows * k);
  const biases = draw(n);
  const before = draw(rows * n);
  return Float64Array.from({ length: rows * n }, (_, i) => {
    const [row, out] = [Math.floor(i / n), i % n];
    let sum = bias ? biases[out]! : 0;
    for (let j = 0; j < k; j++) sum += weights[out * k + j]! * x[row * k + j]!;
    return add ? before[i]! + 0.75 * sum : sum;
  });
}

/** Largest difference relative to the size of a sum of k products. */
const error = (actual: Float32Array, reference: Float64Array, k: number): number =>
  Math.max(...reference.map((value, i) => Math.abs(value - actual[i]!))) / Math.sqrt(k);

const TOLERANCE = { float32: 2e-6, bfloat16: 3e-3, int8: 8e-3 } as const;
const FORMATS = ["float32", "bfloat16", "int8"] as const;

const shape = fc.record({
  rows: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 10, max: 45 }), fc.constantFrom(64, 65, 127, 130)),
  n: fc.integer({ min: 1, max: 70 }),
  k: fc.oneof(fc.constantFrom(1, 2, 3, 4, 8, 16, 31, 32, 33, 48, 97, 320, 321, 576, 700), fc.integer({ min: 1, max: 130 })),
  bias: fc.boolean(),
  add: fc.boolean(),
  seed: fc.nat(10_000),
});

describe.each(FORMATS.map((format) => [format] as const))("%s panels", (format) => {
  test("equal double arithmetic for any shape", () => {
    fc.assert(
      fc.property(shape, (spec) => {
        const product = { ...spec, format };
        expect(error(run(product), expected(product), spec.k)).toBeLessThan(TOLERANCE[format]);
      }),
      { numRuns: 150, seed: 3 },
    );
  });

  test("a row's bits depend on that row alone: not on other rows, their number, or the split of panels", () => {
    fc.assert(
      fc.property(shape, fc.integer({ min: 1, max: 4 }), fc.nat(129), fc.nat(129), (spec, chunk, a, b) => {
        const product = { ...spec, format };
        const whole = run(product);
        const from = a % spec.rows;
        const count = 1 + (b % (spec.rows - from));
        const part = run({ ...product, chunk }, from, count);
        expect(part).toEqual(whole.slice(from * spec.n, (from + count) * spec.n));
      }),
      { numRuns: 150, seed: 5 },
    );
  });

  test("a row's bits are the same for every number of rows that is computed in a way of its own", () => {
    for (const [n, k] of [[16, 576], [40, 97], [25, 321], [300, 16]] as const) {
      const product = { format, rows: 40, n, k, bias: true, add: true };
      const whole = run(product);
      for (let count = 1; count <= 40; count++) expect(run(product, 0, count)).toEqual(whole.slice(0, count * n));
    }
  });

  test("nothing behind the matrix is read, however narrow its last panel", () => {
    for (const rows of [1, 2, 3, 4, 5, 8, 16, 17]) {
      for (const [n, k] of [[8, 8], [16, 576], [24, 33], [49, 1536]] as const) {
        const product = { format, rows, n, k };
        expect(run({ ...product, atEnd: true })).toEqual(run(product));
      }
    }
  });

  test.each([Number.NaN, Infinity, -Infinity])("%p in a row of x makes that row's outputs non-finite, and no other's", (value) => {
    for (const rows of [1, 3, 8, 20]) {
      for (const column of [0, 5, 31, 40]) {
        const product = { format, rows, n: 24, k: 48 };
        const clean = run(product);
        const row = rows - 1;
        const spoiled = run({ ...product, poison: { row, column, value } });
        expect(spoiled.subarray(0, row * 24)).toEqual(clean.subarray(0, row * 24));
        expect([...spoiled.subarray(row * 24)].filter(Number.isFinite)).toEqual([]);
      }
    }
  });

  test("rows come back as they were stored", () => {
    for (const [n, k] of [[1, 1], [8, 5], [9, 33], [16, 64], [40, 97]] as const) {
      reset();
      const random = numbers(n * k);
      const values = Float32Array.from({ length: n * k }, () => random());
      const source = place(n * k * 4);
      floatsAt(source, n * k).set(values);
      const matrix = place(wasm.matrix_bytes(FORMAT[format], n, k));
      // In two parts, from a row that is not on a panel's edge.
      const half = n >> 1;
      wasm.panel_pack(FORMAT[format], matrix, n, k, 0, source, DTYPE.F32, half);
      wasm.panel_pack(FORMAT[format], matrix, n, k, half, source + half * k * 4, DTYPE.F32, n - half);
      const out = place(k * 4);
      for (let row = 0; row < n; row++) {
        wasm.panel_read_row(FORMAT[format], matrix, n, k, row, out);
        const limit = { float32: 0, bfloat16: 2 ** -9, int8: 1 / 127 }[format];
        floatsAt(out, k).forEach((value, i) => expect(Math.abs(value - values[row * k + i]!)).toBeLessThanOrEqual(limit));
      }
    }
  });
});

describe("conversion", () => {
  const stored = (dtype: keyof typeof DTYPE, bits: readonly number[], format: keyof typeof FORMAT): number[] => {
    reset();
    const source = place(bits.length * 4);
    if (dtype === "F32") new Uint32Array(memory.buffer, source, bits.length).set(bits);
    else new Uint16Array(memory.buffer, source, bits.length).set(bits);
    const matrix = place(wasm.matrix_bytes(FORMAT[format], 1, bits.length));
    if (wasm.panel_pack(FORMAT[format], matrix, 1, bits.length, 0, source, DTYPE[dtype], 1) !== 0) return [];
    const out = place(bits.length * 4);
    wasm.panel_read_row(FORMAT[format], matrix, 1, bits.length, 0, out);
    return [...floatsAt(out, bits.length)];
  };

  test("every finite half is exact in float32", () => {
    const finite = Array.from({ length: 65536 }, (_, i) => i).filter((bits) => (bits & 0x7c00) !== 0x7c00);
    const view = new DataView(new ArrayBuffer(2));
    const values = finite.map((bits) => {
      view.setUint16(0, bits);
      return view.getFloat16(0);
    });
    expect(stored("F16", finite, "float32")).toEqual(values);
  });

  test("bfloat16 files are exact in bfloat16, and float32 rounds to the nearest, ties to even", () => {
    expect(stored("BF16", [0x3f80, 0xc040, 0x0001], "bfloat16")).toEqual([1, -3, 9.183549615799121e-41]);
    expect(stored("F32", [0x3f808000, 0x3f818000, 0x3f808001], "bfloat16")).toEqual([1, 1.015625, 1.0078125]);
  });

  test("a float32 number too large for bfloat16 is refused there and nowhere else", () => {
    expect(stored("F32", [0x7f7fffff], "bfloat16")).toEqual([]);
    expect(stored("F32", [0xff7f8000], "bfloat16")).toEqual([]);
    expect(stored("F32", [0x7f7f7fff], "bfloat16")).toEqual([3.3895313892515355e38]);
    expect(stored("F32", [0x7f7fffff], "float32")).toEqual([3.4028234663852886e38]);
  });

  test.each([
    ["F32", 0x7fffffff], ["F32", 0xffffffff], ["F32", 0x7f800001],
    ["F32", 0x7f800000], ["F32", 0xffc00000], ["F16", 0x7c00], ["F16", 0xfe00], ["BF16", 0x7f80], ["BF16", 0xff81],
  ] as const)("%s %x is refused in every format", (dtype, bits) => {
    for (const format of FORMATS) expect(stored(dtype, [0, bits, 0], format)).toEqual([]);
  });
});
