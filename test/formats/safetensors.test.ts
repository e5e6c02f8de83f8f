import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { FormatError } from "../../src/formats/format-error.ts";
import {
  ADAPTER_LIMITS,
  checkedProduct,
  parseHeader,
  parseSafetensors,
} from "../../src/formats/safetensors.ts";
import { encodeSafetensors, safetensorsBytes } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

const FIXTURES = join(import.meta.dir, "../fixtures/peft");
const NO_DATA = new Uint8Array(0);

/** One tensor's record with changes, over 8 bytes of data. */
function oneTensor(changes: Record<string, unknown>): Uint8Array {
  const entry = { dtype: "F32", shape: [2], data_offsets: [0, 8], ...changes };
  return safetensorsBytes(JSON.stringify({ a: entry }), new Uint8Array(8));
}

describe("parseSafetensors", () => {
  test("gives each tensor as a view of its bytes, in the order of the data", () => {
    const bytes = encodeSafetensors({
      b: { dtype: "F32", shape: [1, 2], bytes: new Uint8Array(Float32Array.of(1.5, -2).buffer) },
      a: { dtype: "BF16", shape: [3], bytes: Uint8Array.of(1, 2, 3, 4, 5, 6) },
      scalar: { dtype: "F16", shape: [], bytes: Uint8Array.of(7, 8) },
      empty: { dtype: "F32", shape: [0, 4] },
    });
    const tensors = parseSafetensors(bytes);
    expect([...tensors.keys()].sort()).toEqual(["a", "b", "empty", "scalar"]);
    expect(tensors.get("a")).toEqual({
      dtype: "BF16",
      shape: [3],
      bytes: Uint8Array.of(1, 2, 3, 4, 5, 6),
    });
    expect(tensors.get("b")?.shape).toEqual([1, 2]);
    expect(tensors.get("scalar")).toEqual({ dtype: "F16", shape: [], bytes: Uint8Array.of(7, 8) });
    expect(tensors.get("empty")?.bytes.length).toBe(0);
    expect(tensors.get("b")?.bytes.buffer).toBe(bytes.buffer);
  });

  test.each(["all_r4", "phi3_fused", "base_llama/model", "base_phi3/model"])(
    "reads the file %s",
    (name) => {
      const file = name.includes("/") ? `${name}.safetensors` : `${name}/adapter_model.safetensors`;
      const bytes = readFileSync(join(FIXTURES, file));
      let total = 0;
      for (const { shape, bytes: data } of parseSafetensors(bytes).values()) {
        expect(data.length).toBe(4 * shape.reduce((a, b) => a * b, 1));
        total += data.length;
      }
      expect(total).toBe(bytes.length - 8 - Number(bytes.readBigUInt64LE(0)));
    },
  );

  test("accepts a header padded with spaces, and a file without tensors", () => {
    expect(parseSafetensors(safetensorsBytes("{}      ", NO_DATA)).size).toBe(0);
  });

  test("takes a tensor named __proto__ for a name like any other", () => {
    const header = '{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';
    expect([...parseSafetensors(safetensorsBytes(header, new Uint8Array(4))).keys()]).toEqual([
      "__proto__",
    ]);
  });

  const two = (a: readonly number[], b: readonly number[], dataBytes: number): Uint8Array =>
    safetensorsBytes(
      JSON.stringify({
        a: { dtype: "F32", shape: [(a[1]! - a[0]!) / 4], data_offsets: a },
        b: { dtype: "F32", shape: [(b[1]! - b[0]!) / 4], data_offsets: b },
      }),
      new Uint8Array(dataBytes),
    );

  const bad: readonly (readonly [string, Uint8Array, string])[] = [
    ["an empty file", NO_DATA, "has 0 bytes, too few for a header length"],
    ["seven bytes", new Uint8Array(7), "has 7 bytes, too few for a header length"],
    ["a header length of zero", new Uint8Array(8), "must begin with {"],
    [
      "a header longer than the file",
      safetensorsBytes("{}", NO_DATA, 3n),
      "has 3 bytes but the file only 10",
    ],
    [
      "a header over the cap",
      safetensorsBytes("{}", NO_DATA, 2_097_153n),
      "more than the 2097152 allowed",
    ],
    [
      "a header of 2^63 bytes",
      safetensorsBytes("{}", NO_DATA, 1n << 63n),
      "has 9223372036854775808 bytes, more",
    ],
    ["a header that is no object", safetensorsBytes("[]", NO_DATA), "must begin with {"],
    ["a header after a space", safetensorsBytes(" {}", NO_DATA), "must begin with {"],
    [
      "a header after a byte-order mark",
      safetensorsBytes("\ufeff{}", NO_DATA),
      "must begin with {",
    ],
    ["broken JSON", safetensorsBytes('{"a"', NO_DATA), "must have a colon"],
    ["a name twice", safetensorsBytes('{"a":1,"a":2}', NO_DATA), 'key "a" appears twice'],
    ["deep nesting", safetensorsBytes('{"a":{"b":[[1]]}}', NO_DATA), "deeper than the 3 levels"],
    [
      "metadata that is no object",
      safetensorsBytes('{"__metadata__":1}', NO_DATA),
      "__metadata__ must be an object, got a number",
    ],
    [
      "metadata with a number",
      safetensorsBytes('{"__metadata__":{"n":1}}', NO_DATA),
      'strings only, got a number for "n"',
    ],
    [
      "a tensor that is no object",
      safetensorsBytes('{"a":7}', NO_DATA),
      'tensor "a" must be an object, got a number',
    ],
    [
      "a missing dtype",
      oneTensor({ dtype: undefined }),
      "has dtype nothing; F32, F16 and BF16 are supported",
    ],
    [
      "F64",
      oneTensor({ dtype: "F64" }),
      'tensor "a" has dtype "F64"; F32, F16 and BF16 are supported',
    ],
    ["an 8-bit type", oneTensor({ dtype: "F8_E4M3" }), 'has dtype "F8_E4M3"'],
    ["an integer type", oneTensor({ dtype: "I64" }), 'has dtype "I64"'],
    ["a lower-case type", oneTensor({ dtype: "f32" }), 'has dtype "f32"'],
    ["a missing shape", oneTensor({ shape: undefined }), "must have an array shape, got nothing"],
    ["a shape that is no array", oneTensor({ shape: 2 }), "must have an array shape, got a number"],
    ["a negative size", oneTensor({ shape: [-2] }), "whole numbers of at least 0 in shape, got -2"],
    [
      "a fractional size",
      oneTensor({ shape: [0.5] }),
      "whole numbers of at least 0 in shape, got 0.5",
    ],
    [
      "a size as text",
      oneTensor({ shape: ["2"] }),
      "whole numbers of at least 0 in shape, got a string",
    ],
    [
      "a size beyond the integers",
      oneTensor({ shape: [2 ** 53] }),
      "in shape, got 9007199254740992",
    ],
    ["a huge size", oneTensor({ shape: [1e308] }), "in shape, got 1e+308"],
    [
      "an overflowing product",
      oneTensor({ shape: [2 ** 30, 2 ** 30] }),
      "has shape [1073741824, 1073741824], too large to count",
    ],
    [
      "a product that overflows beside a zero",
      oneTensor({ shape: [2 ** 40, 2 ** 40, 0], data_offsets: [0, 0] }),
      "too large to count",
    ],
    [
      "five dimensions",
      oneTensor({ shape: [1, 1, 1, 1, 2] }),
      "has 5 dimensions, more than the 4 allowed",
    ],
    [
      "one offset",
      oneTensor({ data_offsets: [0] }),
      "must have data_offsets [begin, end] in order, got [0]",
    ],
    ["three offsets", oneTensor({ data_offsets: [0, 4, 8] }), "in order, got [0, 4, 8]"],
    ["offsets backwards", oneTensor({ data_offsets: [8, 0] }), "in order, got [8, 0]"],
    [
      "a size that disagrees with the offsets",
      oneTensor({ shape: [3] }),
      "takes 12 bytes, but data_offsets give 8",
    ],
    [
      "a first tensor behind a hole",
      oneTensor({ shape: [1], data_offsets: [4, 8] }),
      "begins at byte 4 and leaves a hole before it",
    ],
    [
      "data behind the last tensor",
      oneTensor({ shape: [1], data_offsets: [0, 4] }),
      "has 8 bytes of data, but its tensors take 4",
    ],
    [
      "a tensor beyond the file",
      oneTensor({ shape: [4], data_offsets: [0, 16] }),
      "has 8 bytes of data, but its tensors take 16",
    ],
    [
      "overlapping tensors",
      two([0, 8], [4, 12], 12),
      'tensor "b" begins at byte 4 and overlaps the tensor before it',
    ],
    ["one stretch for two tensors", two([0, 8], [0, 8], 8), "overlaps the tensor before it"],
    [
      "a hole between tensors",
      two([0, 4], [8, 12], 12),
      'tensor "b" begins at byte 8 and leaves a hole',
    ],
    [
      "a name over 512 bytes",
      safetensorsBytes(JSON.stringify({ ["é".repeat(257)]: 1 }), NO_DATA),
      "is longer than 512 bytes",
    ],
  ];

  test.each(bad)("refuses %s", (_, bytes, message) => {
    const thrown = thrownBy(() => parseSafetensors(bytes));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("refuses broken UTF-8 in a name", () => {
    const bytes = oneTensor({});
    bytes[10] = 0xff;
    expect(() => parseSafetensors(bytes)).toThrow("not valid UTF-8");
  });

  test("refuses more tensors than its limit", () => {
    const tensors = Object.fromEntries(["a", "b", "c"].map((name) => [name, { shape: [1] }]));
    const limits = { ...ADAPTER_LIMITS, maxTensors: 2 };
    expect(() => parseSafetensors(encodeSafetensors(tensors), limits)).toThrow(
      "lists 3 tensors, more than the 2 allowed",
    );
  });
});

describe("parseSafetensors, fuzzed", () => {
  /** Either a FormatError, or tensors that cover the data and stay inside the file. */
  function parsesOrRefuses(bytes: Uint8Array): void {
    let tensors: ReturnType<typeof parseSafetensors>;
    try {
      tensors = parseSafetensors(bytes);
    } catch (thrown) {
      expect(thrown).toBeInstanceOf(FormatError);
      return;
    }
    const headerBytes = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
    let total = 0;
    for (const { bytes: data } of tensors.values()) total += data.length;
    expect(total).toBe(bytes.length - 8 - headerBytes);
  }

  test("throws nothing but FormatError for any bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), parsesOrRefuses), { numRuns: 2000 });
  });

  test("throws nothing but FormatError for any header text over any data", () => {
    const number = fc.oneof(fc.nat(64), fc.constantFrom(-1, 0.5, 2 ** 32, 2 ** 53, 1e308));
    const entry = fc.record(
      {
        dtype: fc.constantFrom("F32", "F16", "BF16", "I8", 3),
        shape: fc.array(number, { maxLength: 5 }),
        data_offsets: fc.array(number, { maxLength: 3 }),
      },
      { requiredKeys: [] },
    );
    const header = fc.dictionary(fc.constantFrom("a", "b", "__proto__", "__metadata__", ""), entry);
    fc.assert(
      fc.property(header, fc.uint8Array({ maxLength: 64 }), (value, data) =>
        parsesOrRefuses(safetensorsBytes(JSON.stringify(value), data)),
      ),
      { numRuns: 3000 },
    );
  });

  test("throws nothing but FormatError for a good file with bytes changed, cut or added", () => {
    const good = encodeSafetensors({ a: { shape: [2, 3] }, b: { dtype: "BF16", shape: [4] } });
    const change = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 4 }),
        fc.integer({ min: -20, max: 20 }),
        (changes, length) => {
          const bytes = new Uint8Array(good.length + length);
          bytes.set(good.subarray(0, bytes.length));
          for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
          parsesOrRefuses(bytes);
        },
      ),
      { numRuns: 5000 },
    );
  });

  test("gives back any set of tensors that was written", () => {
    const tensor = fc.record({
      dtype: fc.constantFrom("F32", "F16", "BF16"),
      shape: fc.array(fc.nat(5), { maxLength: 4 }),
    });
    fc.assert(
      fc.property(fc.dictionary(fc.string({ maxLength: 20 }), tensor), (tensors) => {
        fc.pre(
          Object.keys(tensors).every((name) => name.isWellFormed() && name !== "__metadata__"),
        );
        const parsed = parseSafetensors(encodeSafetensors(tensors));
        expect(new Set(parsed.keys())).toEqual(new Set(Object.keys(tensors)));
        for (const [name, { dtype, shape }] of Object.entries(tensors)) {
          expect(parsed.get(name)).toMatchObject({ dtype, shape: [...shape] });
        }
      }),
    );
  });
});

describe("checkedProduct", () => {
  test("is the exact product, or undefined beyond the exact integers", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2 ** 31 - 1), { maxLength: 5 }), (sizes) => {
        const product = checkedProduct(sizes);
        const exact = sizes.reduce((a, b) => a * BigInt(b), 1n);
        if (product !== undefined) expect(BigInt(product)).toBe(exact);
        else
          expect(
            sizes.some(
              (_, i) =>
                sizes.slice(0, i + 1).reduce((a, b) => a * BigInt(b), 1n) >
                BigInt(Number.MAX_SAFE_INTEGER),
            ),
          ).toBe(true);
      }),
    );
  });
});

test("parseHeader counts the data from the end of the header", () => {
  const json = new TextEncoder().encode('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}');
  const header = parseHeader(json, 8 + json.length + 8, ADAPTER_LIMITS);
  expect(header.dataStart).toBe(8 + json.length);
  expect(header.tensors.get("a")).toEqual({ dtype: "F32", shape: [2], begin: 0, end: 8 });
});
