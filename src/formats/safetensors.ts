/**
 * Safetensors: eight bytes of header length, a JSON header, then the tensors' bytes.
 *
 * Accepts exactly what the reference accepts and a little less: lower limits, no duplicate names, and only the
 * float types that this program computes with. The tensors must cover the data without hole or overlap, so
 * nothing can hide in a file and no tensor can reach outside it.
 *
 * @source https://github.com/huggingface/safetensors, format description and `tensor.rs` `Metadata::validate`
 */
import { FormatError, quoted } from "./format-error.ts";
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  nameJsonType,
  parseJsonObject,
} from "./json.ts";

export type FloatDtype = "F32" | "F16" | "BF16";

export const DTYPE_BYTES: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2 };

export interface SafetensorsLimits {
  readonly maxHeaderBytes: number;
  readonly maxTensors: number;
  readonly maxDims: number;
  /** Bytes of a tensor's name in UTF-8. */
  readonly maxNameBytes: number;
}

/** A whole adapter of 448 tensors has a header of 57 kB. */
export const ADAPTER_LIMITS: SafetensorsLimits = {
  maxHeaderBytes: 2 * 1024 * 1024,
  maxTensors: 16_384,
  maxDims: 4,
  maxNameBytes: 512,
};

/** Base models are chosen by whoever starts the server; the cap only bounds a mistake. */
export const BASE_MODEL_LIMITS: SafetensorsLimits = {
  maxHeaderBytes: 16 * 1024 * 1024,
  maxTensors: 131_072,
  maxDims: 4,
  maxNameBytes: 512,
};

export interface TensorEntry {
  readonly dtype: FloatDtype;
  /** Row-major; empty for a scalar. */
  readonly shape: readonly number[];
  /** Bytes from the start of the data area, `begin <= end`. */
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** File offset of the data area. */
  readonly dataStart: number;
}

export interface Tensor {
  readonly dtype: FloatDtype;
  readonly shape: readonly number[];
  /** A view into the file's bytes, little-endian, of any alignment. */
  readonly bytes: Uint8Array;
}

/**
 * Parses a whole file held in memory; the tensors are views of it, in the order of their bytes.
 *
 * @throws {FormatError} for anything but a valid file within `limits`
 */
export function parseSafetensors(
  bytes: Uint8Array,
  limits: SafetensorsLimits = ADAPTER_LIMITS,
): Map<string, Tensor> {
  const headerBytes = headerLength(bytes, bytes.length, limits);
  const { tensors, dataStart } = parseHeader(
    bytes.subarray(8, 8 + headerBytes),
    bytes.length,
    limits,
  );
  const views = new Map<string, Tensor>();
  for (const [name, { dtype, shape, begin, end }] of tensors) {
    views.set(name, { dtype, shape, bytes: bytes.subarray(dataStart + begin, dataStart + end) });
  }
  return views;
}

/**
 * Reads the header's length from a file's first bytes.
 *
 * @param prefix at least the first 8 bytes, fewer only if the file has fewer
 * @param fileBytes size of the whole file
 * @returns bytes of JSON that follow the first 8, all inside the file
 */
export function headerLength(
  prefix: Uint8Array,
  fileBytes: number,
  limits: SafetensorsLimits,
): number {
  if (prefix.length < 8 || fileBytes < 8) {
    throw new FormatError(
      `the safetensors file has ${fileBytes} bytes, too few for a header length`,
    );
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, 8);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(limits.maxHeaderBytes)) {
    throw new FormatError(
      `the safetensors header has ${length} bytes, more than the ${limits.maxHeaderBytes} allowed`,
    );
  }
  if (8n + length > BigInt(fileBytes)) {
    throw new FormatError(
      `the safetensors header has ${length} bytes but the file only ${fileBytes}: it is truncated`,
    );
  }
  return Number(length);
}

/**
 * Parses and checks the JSON header.
 *
 * @param json the header's bytes, `headerLength` many
 * @param fileBytes size of the whole file, which the tensors must fill exactly
 */
export function parseHeader(
  json: Uint8Array,
  fileBytes: number,
  limits: SafetensorsLimits,
): SafetensorsHeader {
  if (json[0] !== 0x7b) throw new FormatError("the safetensors header must begin with {");
  const header = parseJsonObject(json, { maxBytes: limits.maxHeaderBytes, maxDepth: 3 });
  checkMetadata(header["__metadata__"]);
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  if (names.length > limits.maxTensors) {
    throw new FormatError(
      `the safetensors header lists ${names.length} tensors, more than the ${limits.maxTensors} allowed`,
    );
  }
  const entries = names.map((name) => ({ name, entry: parseEntry(name, header[name], limits) }));
  entries.sort((a, b) => a.entry.begin - b.entry.begin || a.entry.end - b.entry.end);
  const dataStart = 8 + json.length;
  checkCover(entries, fileBytes - dataStart);
  return { tensors: new Map(entries.map(({ name, entry }) => [name, entry])), dataStart };
}

/** Product of sizes, refused before it could leave the exact integers. */
export function checkedProduct(sizes: readonly number[]): number | undefined {
  let product = 1;
  for (const size of sizes) {
    product *= size;
    if (!Number.isSafeInteger(product)) return undefined;
  }
  return product;
}

function parseEntry(
  name: string,
  value: JsonValue | undefined,
  limits: SafetensorsLimits,
): TensorEntry {
  if (new TextEncoder().encode(name).length > limits.maxNameBytes) {
    throw new FormatError(
      `the tensor name ${quoted(name)} is longer than ${limits.maxNameBytes} bytes`,
    );
  }
  const tensor = `tensor ${quoted(name)}`;
  if (!isJsonObject(value))
    throw new FormatError(`${tensor} must be an object, got ${nameJsonType(value)}`);
  const dtype = parseDtype(tensor, value);
  const shape = parseSizes(tensor, "shape", value);
  if (shape.length > limits.maxDims) {
    throw new FormatError(
      `${tensor} has ${shape.length} dimensions, more than the ${limits.maxDims} allowed`,
    );
  }
  const offsets = parseSizes(tensor, "data_offsets", value);
  const [begin, end] = offsets;
  if (offsets.length !== 2 || begin === undefined || end === undefined || begin > end) {
    throw new FormatError(
      `${tensor} must have data_offsets [begin, end] in order, got [${offsets.join(", ")}]`,
    );
  }
  // A zero anywhere makes the product small, so the other sizes are multiplied on their own as well.
  const numBytes = checkedProduct([...shape, DTYPE_BYTES[dtype]]);
  if (numBytes === undefined || checkedProduct(shape.filter((size) => size > 0)) === undefined) {
    throw new FormatError(`${tensor} has shape [${shape.join(", ")}], too large to count`);
  }
  if (numBytes !== end - begin) {
    throw new FormatError(
      `${tensor} of shape [${shape.join(", ")}] and dtype ${dtype} takes ${numBytes} bytes, but data_offsets give ${end - begin}`,
    );
  }
  return { dtype, shape, begin, end };
}

function parseDtype(tensor: string, value: JsonObject): FloatDtype {
  const dtype = value["dtype"];
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16") return dtype;
  const found = typeof dtype === "string" ? quoted(dtype) : nameJsonType(dtype);
  throw new FormatError(`${tensor} has dtype ${found}; F32, F16 and BF16 are supported`);
}

function parseSizes(tensor: string, field: string, value: JsonObject): readonly number[] {
  const sizes = value[field];
  if (!Array.isArray(sizes)) {
    throw new FormatError(`${tensor} must have an array ${field}, got ${nameJsonType(sizes)}`);
  }
  return sizes.map((size: JsonValue) => {
    if (typeof size === "number" && Number.isSafeInteger(size) && size >= 0) return size;
    const found = typeof size === "number" ? String(size) : nameJsonType(size);
    throw new FormatError(
      `${tensor} must have whole numbers of at least 0 in ${field}, got ${found}`,
    );
  });
}

function checkMetadata(metadata: JsonValue | undefined): void {
  if (metadata === undefined) return;
  if (!isJsonObject(metadata)) {
    throw new FormatError(
      `the safetensors __metadata__ must be an object, got ${nameJsonType(metadata)}`,
    );
  }
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value !== "string") {
      throw new FormatError(
        `the safetensors __metadata__ must hold strings only, got ${nameJsonType(value)} for ${quoted(key)}`,
      );
    }
  }
}

function checkCover(
  entries: readonly { readonly name: string; readonly entry: TensorEntry }[],
  dataBytes: number,
): void {
  let covered = 0;
  for (const { name, entry } of entries) {
    if (entry.begin !== covered) {
      const fault =
        entry.begin < covered ? "overlaps the tensor before it" : "leaves a hole before it";
      throw new FormatError(
        `tensor ${quoted(name)} begins at byte ${entry.begin} and ${fault}, which ends at ${covered}`,
      );
    }
    covered = entry.end;
  }
  if (covered !== dataBytes) {
    throw new FormatError(
      `the safetensors file has ${dataBytes} bytes of data, but its tensors take ${covered}`,
    );
  }
}
