import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../../src/formats/format-error.ts";
import { parseTorch } from "../../src/formats/torch-file.ts";
import { toFloatTensor } from "../../src/formats/torch-tensor.ts";
import { encodeLegacyTorch, encodeTorch, encodeZip, op, pickle, pickledDict, type PickledTensor, pickledTensor } from "../helpers/archives.ts";
import { thrownBy } from "../helpers/thrown.ts";

const TORCH = join(import.meta.dir, "../fixtures/peft/torch");
const read = (name: string): Uint8Array => new Uint8Array(readFileSync(join(TORCH, name)));
type Expected = Record<string, { shape: number[]; dtype: string; values: number[] } | string>;
const expected = JSON.parse(readFileSync(join(TORCH, "expected.json"), "utf8")) as Record<string, Expected>;

const DTYPES: Readonly<Record<string, string>> = {
  "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
  "torch.float8_e4m3fn": "F8_E4M3", "torch.int64": "I64", "torch.bool": "BOOL",
};

function values(dtype: string, bytes: Uint8Array): number[] {
  const own = bytes.slice().buffer;
  switch (dtype) {
    case "F32":
      return [...new Float32Array(own)];
    case "F64":
      return [...new Float64Array(own)];
    case "F16":
      return [...new Float16Array(own)];
    case "BF16":
      return [...new Float32Array(Uint32Array.from(new Uint16Array(own), (bits) => bits << 16).buffer)];
    case "I64":
      return [...new BigInt64Array(own)].map(Number);
    default:
      return [...bytes];
  }
}

describe("files that torch wrote", () => {
  test.each(Object.keys(expected))("%s: every tensor's numbers", (name) => {
    const wanted = Object.entries(expected[name]!);
    const others = new Set(wanted.filter(([, value]) => typeof value === "string").map(([key]) => key));
    const tensors = parseTorch(read(name), (key) => others.has(key));
    expect([...tensors.keys()]).toEqual(wanted.map(([key]) => key).filter((key) => !others.has(key)));
    for (const [key, value] of wanted) {
      if (typeof value === "string") continue;
      const tensor = tensors.get(key)!;
      expect([...tensor.shape]).toEqual(value.shape);
      expect(tensor.dtype as string).toBe(DTYPES[value.dtype]!);
      if (["I64", "BOOL"].includes(tensor.dtype)) {
        expect(values(tensor.dtype, tensor.rowMajorBytes())).toEqual(value.values);
        expect(() => toFloatTensor(key, tensor)).toThrow(`tensor "${key}" has dtype ${tensor.dtype}; only float types`);
        continue;
      }
      const float = toFloatTensor(key, tensor);
      expect(values(float.dtype, float.bytes)).toEqual(tensor.dtype === "F64" ? [...Float32Array.from(value.values)] : value.values);
    }
  });

  test("evil.ckpt is refused with the name it asks for", () => {
    expect(() => parseTorch(read("evil.ckpt"))).toThrow('asks for "__builtin__.print"');
  });

  test("what is not a tensor is named unless it is ignored", () => {
    expect(() => parseTorch(read("views.ckpt"))).toThrow('holds None as "none", which is not a tensor');
  });

  test("rows that lie apart are brought together, rows that lie together stay where they are", () => {
    const file = read("shared.ckpt");
    const tensors = parseTorch(file);
    expect(tensors.get("b")!.rowMajorBytes().buffer).toBe(file.buffer);
    expect(tensors.get("c")!.rowMajorBytes().buffer).not.toBe(file.buffer);
  });

  test("8-bit floats keep their values, special ones included", () => {
    const bytes = Uint8Array.of(0x7e, 0x7f, 0x01, 0x80, 0x38);
    const file = (storage: string): Uint8Array =>
      encodeTorch(
        pickle(
          op.emptyDict(), op.text("w"), op.global("torch._utils", "_rebuild_tensor_v3"), op.mark(),
          op.mark(), op.text("storage"), op.global("torch.storage", "UntypedStorage"), op.text("0"), op.text("cpu"), op.int(5), op.tuple(), op.persistent(),
          op.int(0), op.mark(), op.int(5), op.tuple(), op.mark(), op.int(1), op.tuple(), op.no(),
          op.global("collections", "OrderedDict"), op.emptyTuple(), op.reduce(), op.global("torch", storage), op.tuple(), op.reduce(), op.setItem(),
        ),
        { 0: bytes },
      );
    const numbers = (storage: string): number[] => {
      const float = toFloatTensor("w", parseTorch(file(storage)).get("w")!);
      return values(float.dtype, float.bytes);
    };
    expect(numbers("float8_e4m3fn")).toEqual([448, Number.NaN, 2 ** -9, -0, 1]);
    expect(numbers("float8_e5m2")).toEqual([Number.NaN, Number.NaN, 2 ** -16, -0, 0.5]);
  });
});

const W = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);
const tensor = (change: Partial<PickledTensor> = {}): PickledTensor => ({ name: "w", count: 6, shape: [2, 3], ...change });
const file = (...tensors: PickledTensor[]): Uint8Array => encodeTorch(pickledDict(tensors), { 0: W });
const legacy = (change: Partial<PickledTensor> = {}, count = 6, bytes = W): Uint8Array =>
  encodeLegacyTorch(pickledDict([tensor(change)], true), { 0: { count, bytes } });

describe("both containers", () => {
  test.each([["zip", file(tensor())], ["legacy", legacy()]] as const)("%s", (_, bytes) => {
    expect([...parseTorch(bytes)].map(([name, one]) => [name, one.dtype, one.shape, values("F32", one.rowMajorBytes())])).toEqual([
      ["w", "F32", [2, 3], [1, 2, 3, 4, 5, 6]],
    ]);
  });

  const state = (value: Uint8Array): Uint8Array => encodeTorch(pickle(value), { 0: W });
  const withMember = (name: string, bytes: Uint8Array): Uint8Array => encodeTorch(pickledDict([tensor()]), { 0: W }, [{ name, bytes }]);
  const bad: readonly (readonly [string, Uint8Array, string])[] = [
    ["an empty file", new Uint8Array(0), "the pickle asks for"],
    ["text, whose h asks for what was remembered", new TextEncoder().encode("hello, world"), "did not remember"],
    ["another pickle", pickle(op.emptyDict()), "neither a zip entry nor torch's magic number"],
    ["a list", state(op.emptyList()), "must hold a dict of tensors, got a list"],
    ["a tensor alone", state(pickledTensor(tensor())), "must hold a dict of tensors, got another object"],
    ["a dict in a dict", state(Buffer.concat([op.emptyDict(), op.text("a"), op.emptyDict(), op.setItem()])), 'holds a dict as "a"'],
    ["a number as a name", state(Buffer.concat([op.emptyDict(), op.int(1), pickledTensor(tensor()), op.setItem()])), "names a tensor by the number 1"],
    ["a shape beyond its storage", file(tensor({ shape: [2, 4] })), "leaves its storage"],
    ["an offset beyond its storage", file(tensor({ offset: 1 })), "leaves its storage"],
    ["strides beyond its storage", file(tensor({ strides: [4, 1] })), "leaves its storage"],
    ["a negative stride", file(tensor({ strides: [-1, 1] })), "in a way that torch.save does not"],
    ["a shape that overflows", file(tensor({ shape: [2 ** 31 - 1, 2 ** 31 - 1], strides: [0, 0] })), "which cannot be read"],
    ["a shape that hides behind a zero", file(tensor({ shape: [0, 2 ** 31 - 1, 2 ** 31 - 1], strides: [0, 0, 0] })), "which cannot be read"],
    ["one element seen a million times", file(tensor({ shape: [1000, 1000], strides: [0, 0] })), "describes tensors of more than 4 times as many"],
    ["fewer strides than sizes", file(tensor({ strides: [1] })), "which cannot be read"],
    ["nine dimensions", file(tensor({ shape: [1, 1, 1, 1, 1, 1, 1, 1, 6] })), "which cannot be read"],
    ["a storage of another size", file(tensor({ count: 7 })), "has 24 bytes, but its pickle says 28"],
    ["a storage of another type", file(tensor({ storage: "DoubleStorage" })), "has 24 bytes, but its pickle says 48"],
    ["a storage that is not there", file(tensor({ key: "1" })), 'no storage "1"'],
    ["a storage described twice", file(tensor(), tensor({ name: "v", storage: "HalfStorage", count: 12 })), "in two ways"],
    ["a storage of an unknown type", file(tensor({ storage: "EvilStorage" })), 'asks for "torch.EvilStorage"'],
    ["a name of 600 bytes", file(tensor({ name: "n".repeat(600) })), "is longer than 512 bytes"],
    ["TorchScript", withMember("x/code/a.py", W), 'the member "x/code/a.py", which torch.save does not write'],
    ["two folders", withMember("y/version", W), 'the member "y/version"'],
    ["big-endian numbers", encodeZip([{ name: "x/data.pkl", bytes: pickledDict([]) }, { name: "x/byteorder", bytes: new TextEncoder().encode("big") }]), 'the byte order "big"'],
    ["bytes after the pickle", encodeTorch(new Uint8Array(Buffer.concat([pickledDict([tensor()]), W])), { 0: W }), "goes on for 24 bytes"],
    ["a legacy storage of another count", legacy({}, 5), "has 5 elements, but its pickle says it has 24 bytes"],
    ["a legacy storage of 2^60 elements", legacy({}, 2 ** 60), "elements, but its pickle says"],
    ["a legacy file that is cut", legacy().subarray(0, -1), "has 23 bytes, but its pickle says 24"],
    ["a legacy file that goes on", new Uint8Array(Buffer.concat([legacy(), W])), "goes on for 24 bytes"],
    ["a legacy storage that nothing uses", encodeLegacyTorch(pickledDict([tensor()], true), { 0: { count: 6, bytes: W }, 1: { count: 6, bytes: W } }), "that no tensor uses"],
    ["a legacy storage that is missing", encodeLegacyTorch(pickledDict([tensor()], true), {}), 'no storage "0"'],
  ];

  test.each(bad)("refuse %s", (_, bytes, message) => {
    const thrown = thrownBy(() => parseTorch(bytes));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("hold an empty tensor", () => {
    const one = parseTorch(file(tensor({ shape: [0, 3] }))).get("w")!;
    expect([one.numBytes, one.rowMajorBytes().length]).toEqual([0, 0]);
  });
});
