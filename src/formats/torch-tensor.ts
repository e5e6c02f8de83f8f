/** Tensors as `torch.save` describes them: a storage of numbers, and a view into it. */
import { FormatError, quoted } from "./format-error.ts";
import { PickleObject } from "./pickle.ts";
import { checkedProduct, type FloatDtype, type Tensor } from "./safetensors.ts";

export type TorchDtype = FloatDtype | "F64" | "F8_E4M3" | "F8_E5M2" | "I64" | "I32" | "I16" | "I8" | "U8" | "BOOL";

export const TORCH_DTYPE_BYTES: Readonly<Record<TorchDtype, number>> = {
  F64: 8, F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E5M2: 1, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1,
};

export const MAX_TORCH_DIMS = 8;

/** Numbers that tensors view; the bytes are found after the pickle that names them was read. */
export class TorchStorage extends PickleObject {
  bytes: Uint8Array | null = null;
  readonly key: string;
  /** `null` for a storage of bytes, whose tensors say what they are. */
  readonly dtype: TorchDtype | null;
  /** As the pickle says, to be compared with what is found. */
  readonly numBytes: number;

  constructor(key: string, dtype: TorchDtype | null, numBytes: number) {
    super();
    this.key = key;
    this.dtype = dtype;
    this.numBytes = numBytes;
  }
}

export class TorchTensor extends PickleObject {
  readonly storage: TorchStorage;
  readonly dtype: TorchDtype;
  readonly shape: readonly number[];
  /** In elements, one per dimension. */
  readonly strides: readonly number[];
  /** Of the first element, in elements. */
  readonly offset: number;

  /** @throws {FormatError} when it leaves its storage */
  constructor(storage: TorchStorage, dtype: TorchDtype, shape: readonly number[], strides: readonly number[], offset: number) {
    super();
    this.storage = storage;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
    this.#check();
  }

  get numBytes(): number {
    return this.shape.reduce((product, size) => product * size, TORCH_DTYPE_BYTES[this.dtype]);
  }

  /** The numbers in row-major order: a view of the file where they lie so, else a copy. */
  rowMajorBytes(): Uint8Array {
    const bytes = this.storage.bytes;
    if (bytes === null) throw new FormatError(`the storage ${quoted(this.storage.key)} of a tensor is not in the file`);
    const size = TORCH_DTYPE_BYTES[this.dtype];
    const begin = this.offset * size;
    if (this.#isRowMajor()) return bytes.subarray(begin, begin + this.numBytes);
    return gather(bytes.subarray(begin), this.shape, this.strides, size, this.numBytes);
  }

  #isRowMajor(): boolean {
    let step = 1;
    for (let i = this.shape.length - 1; i >= 0; i--) {
      if (this.shape[i] !== 1 && this.strides[i] !== step) return this.numBytes === 0;
      step *= this.shape[i]!;
    }
    return true;
  }

  /** Every element lies in the storage, and all of them can be counted. */
  #check(): void {
    const { shape, strides, offset, storage } = this;
    const size = TORCH_DTYPE_BYTES[this.dtype];
    const numBytes = checkedProduct([...shape, size]);
    const isCounted = numBytes !== undefined && checkedProduct(shape.filter((length) => length > 0)) !== undefined;
    if (shape.length > MAX_TORCH_DIMS || strides.length !== shape.length || !isCounted) {
      throw new FormatError(`a tensor has the shape [${shape.join(", ")}] with strides [${strides.join(", ")}], which cannot be read`);
    }
    let last = offset;
    for (const [i, length] of shape.entries()) last += (length - 1) * strides[i]!;
    const end = numBytes === 0 ? offset : last + 1;
    if (!Number.isSafeInteger(end) || end * size > storage.numBytes) {
      throw new FormatError(
        `a tensor of shape [${shape.join(", ")}] with strides [${strides.join(", ")}] at ${offset} leaves its storage ${quoted(storage.key)} of ${storage.numBytes} bytes`,
      );
    }
  }
}

function gather(from: Uint8Array, shape: readonly number[], strides: readonly number[], size: number, numBytes: number): Uint8Array {
  const target = new Uint8Array(numBytes);
  const index = shape.map(() => 0);
  let element = 0;
  for (let at = 0; at < numBytes; at += size) {
    for (let i = 0; i < size; i++) target[at + i] = from[element * size + i]!;
    for (let dim = shape.length - 1; dim >= 0; dim--) {
      element += strides[dim]!;
      if (++index[dim]! < shape[dim]!) break;
      element -= strides[dim]! * shape[dim]!;
      index[dim] = 0;
    }
  }
  return target;
}

/**
 * The same numbers in a format that backends take: float64 is rounded to float32, 8-bit floats fit bfloat16 exactly.
 *
 * @throws {FormatError} for whole numbers
 */
export function toFloatTensor(name: string, tensor: TorchTensor): Tensor {
  const { dtype, shape } = tensor;
  switch (dtype) {
    case "F32":
    case "F16":
    case "BF16":
      return { dtype, shape, bytes: tensor.rowMajorBytes() };
    case "F64": {
      // A view of the file may start at any byte, a typed array may not.
      const doubles = new Float64Array(new Uint8Array(tensor.rowMajorBytes()).buffer);
      return { dtype: "F32", shape, bytes: new Uint8Array(Float32Array.from(doubles).buffer) };
    }
    case "F8_E4M3":
    case "F8_E5M2":
      return { dtype: "BF16", shape, bytes: widen(tensor.rowMajorBytes(), dtype === "F8_E4M3" ? E4M3 : E5M2) };
    default:
      throw new FormatError(`tensor ${quoted(name)} has dtype ${dtype}; only float types can be weights`);
  }
}

function widen(bytes: Uint8Array, table: Uint16Array): Uint8Array {
  const words = new Uint16Array(bytes.length);
  for (const [i, byte] of bytes.entries()) words[i] = table[byte]!;
  return new Uint8Array(words.buffer);
}

/** The bfloat16 of each byte. */
function widening(mantissaBits: number, isSpecial: (exponent: number, mantissa: number) => number | null): Uint16Array {
  const bias = 2 ** (6 - mantissaBits) - 1;
  const values = Float32Array.from({ length: 256 }, (_, byte) => {
    const mantissa = byte & (2 ** mantissaBits - 1);
    const exponent = (byte & 0x7f) >> mantissaBits;
    const fraction = mantissa / 2 ** mantissaBits;
    const size = isSpecial(exponent, mantissa) ?? (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
    return byte < 128 ? size : -size;
  });
  return Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
}

/** Finite numbers only, but for one NaN. */
const E4M3 = widening(3, (exponent, mantissa) => (exponent === 15 && mantissa === 7 ? Number.NaN : null));
const E5M2 = widening(2, (exponent, mantissa) => (exponent === 31 ? (mantissa === 0 ? Infinity : Number.NaN) : null));
