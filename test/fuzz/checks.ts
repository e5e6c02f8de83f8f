/** What must be true of accepted files, found out by other means than the readers use. */
import { inflateRawSync } from "node:zlib";
import type { AdapterConfig } from "../../src/lora/adapter-config.ts";

export interface TensorView {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

const DTYPE_BYTES: Readonly<Record<string, bigint>> = { F64: 8n, F32: 4n, F16: 2n, BF16: 2n, I64: 8n, I32: 4n, I16: 2n, I8: 1n, U8: 1n, BOOL: 1n, F8_E4M3: 1n, F8_E5M2: 1n };
const sizeOf = (dtype: string, shape: readonly number[]): bigint => shape.reduce((product, size) => product * BigInt(size), DTYPE_BYTES[dtype] ?? -1n);

/** By the other JSON parser, in big integers, each byte of the data counted. */
export function checkSafetensors(bytes: Uint8Array, tensors: ReadonlyMap<string, TensorView>): string | null {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  if (names.length !== tensors.size) return `has ${names.length} names, but ${tensors.size} tensors`;
  const covered = new Uint8Array(bytes.length - 8 - length);
  for (const name of names) {
    const { dtype, shape, data_offsets: [begin, end] } = header[name]!;
    const tensor = tensors.get(name);
    if (tensor === undefined) return `lost the tensor ${name}`;
    if (sizeOf(dtype, shape) !== BigInt(end - begin) || begin < 0 || end > covered.length) return `tensor ${name} has another size than its shape`;
    if (tensor.bytes.length !== end - begin || tensor.bytes.byteOffset !== bytes.byteOffset + 8 + length + begin) return `tensor ${name} is another view`;
    for (let i = begin; i < end; i++) covered[i]!++;
  }
  return covered.every((count) => count === 1) ? null : "has bytes that no tensor, or more than one, covers";
}

export interface ZipContent {
  readonly name: string;
  readonly packed: Uint8Array;
  readonly unpacked: Uint8Array;
}

const isPlainPath = (name: string): boolean => name !== "" && !name.startsWith("/") && !name.includes("\\") && !name.includes("\0") && !name.split("/").includes("..");

/** By the local headers from the front, never looking at the directory. */
export function checkZip(bytes: Uint8Array, contents: readonly ZipContent[]): string | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const inOrder = contents.toSorted((a, b) => a.packed.byteOffset - b.packed.byteOffset);
  const names = new Set<string>();
  let end = 0;
  for (const { name, packed, unpacked } of inOrder) {
    if (!isPlainPath(name)) return `has the path ${JSON.stringify(name)}`;
    if (names.has(name)) return `has ${name} twice`;
    names.add(name);
    const from = packed.byteOffset - bytes.byteOffset;
    // A descriptor of at most 24 bytes may lie between entries.
    const at = findHeader(view, end, from);
    if (at === null || at - end > 24) return `has no local header in front of ${name}`;
    const local = new TextDecoder().decode(bytes.subarray(at + 30, at + 30 + view.getUint16(at + 26, true)));
    if (local !== name) return `calls ${name} by ${local} in front of its bytes`;
    const method = view.getUint16(at + 8, true);
    if ((view.getUint16(at + 6, true) & 1) !== 0) return `has ${name} encrypted`;
    const content = method === 0 ? packed : inflateRawSync(packed);
    if (content.length !== unpacked.length || !content.every((byte, i) => byte === unpacked[i])) return `gives other bytes for ${name}`;
    const crc = view.getUint32(at + 14, true);
    if (crc !== 0 && crc !== bitwiseCrc(unpacked)) return `gives damaged bytes for ${name}`;
    if (crc === 0 && (view.getUint16(at + 6, true) & 8) !== 0 && !hasCrcBehind(view, from + packed.length, bitwiseCrc(unpacked))) return `gives damaged bytes for ${name}`;
    end = from + packed.length;
  }
  return null;
}

function findHeader(view: DataView, from: number, dataAt: number): number | null {
  for (let at = from; at + 30 <= dataAt; at++) {
    if (view.getUint32(at, true) === 0x04034b50 && at + 30 + view.getUint16(at + 26, true) + view.getUint16(at + 28, true) === dataAt) return at;
  }
  return null;
}

const hasCrcBehind = (view: DataView, at: number, crc: number): boolean => view.getUint32(at, true) === crc || view.getUint32(at + 4, true) === crc;

function bitwiseCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}

export interface StridedView extends TensorView {
  readonly strides: readonly number[];
  readonly offset: number;
  readonly storage: Uint8Array;
}

/** A storage may have several names, so the bytes of all tensors may be this many times the file's. */
export const MOST_NAMES = 4;

/** Every element fetched by its own index, in big integers. */
export function checkTensors(fileBytes: number, tensors: ReadonlyMap<string, StridedView>): string | null {
  let total = 0n;
  for (const [name, { dtype, shape, strides, offset, storage, bytes }] of tensors) {
    const size = sizeOf(dtype, shape);
    total += size;
    if (size < 0n || BigInt(bytes.length) !== size) return `tensor ${name} has ${bytes.length} bytes, not ${size}`;
    const width = Number(DTYPE_BYTES[dtype]);
    for (let element = 0; element * width < bytes.length; element++) {
      let rest = element;
      let index = BigInt(offset);
      for (let dim = shape.length - 1; dim >= 0; dim--) {
        index += BigInt(rest % shape[dim]!) * BigInt(strides[dim]!);
        rest = Math.floor(rest / shape[dim]!);
      }
      const at = index * BigInt(width);
      if (at < 0n || at + BigInt(width) > BigInt(storage.length)) return `tensor ${name} reads outside its storage`;
      for (let i = 0; i < width; i++) if (bytes[element * width + i] !== storage[Number(at) + i]) return `tensor ${name} has another element ${element}`;
    }
  }
  return total > BigInt(MOST_NAMES * fileBytes) ? `a file of ${fileBytes} bytes gives tensors of ${total}` : null;
}

/** Bytes behind each opcode: a number, or how the length is given. */
const OPERANDS: Readonly<Record<number, number | "u1" | "u4" | "u8" | "line" | "lines">> = {
  0x80: 1, 0x95: 8, 0x28: 0, 0x2e: 0, 0x30: 0, 0x31: 0, 0x4e: 0, 0x88: 0, 0x89: 0, 0x4a: 4, 0x4b: 1, 0x4d: 2, 0x8a: "u1", 0x8b: "u4", 0x47: 8, 0x58: "u4",
  0x54: "u4", 0x8c: "u1", 0x55: "u1", 0x8d: "u8", 0x42: "u4", 0x43: "u1", 0x29: 0, 0x85: 0, 0x86: 0, 0x87: 0, 0x74: 0, 0x5d: 0, 0x61: 0, 0x65: 0, 0x7d: 0,
  0x73: 0, 0x75: 0, 0x71: 1, 0x72: 4, 0x94: 0, 0x68: 1, 0x6a: 4, 0x63: "lines", 0x93: 0, 0x51: 0, 0x52: 0, 0x81: 0, 0x62: 0,
};
const NAMES = /^(collections OrderedDict|torch\._utils _rebuild_(tensor_v[23]|parameter)|torch (Size|device|\w+Storage|u?int\d+|b?float\d+(_e\dm\d(fn)?)?|bool)|torch\.storage UntypedStorage)$/;

/** Takes the pickle apart without running it: known opcodes only, known names only. */
export function checkPickle(bytes: Uint8Array): string | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const text = new TextDecoder("latin1").decode(bytes);
  for (let at = 0, count = 0; ; count++) {
    const opcode = bytes[at++];
    if (opcode === undefined) return "has a pickle without end";
    const operand = OPERANDS[opcode];
    if (operand === undefined) return `has opcode ${opcode}`;
    if (count > 200_000) return "has too many opcodes";
    if (opcode === 0x2e) return null;
    if (typeof operand === "number") at += operand;
    else if (operand === "u1") at += 1 + bytes[at]!;
    else if (operand === "u4") at += 4 + view.getUint32(at, true);
    else if (operand === "u8") at += 8 + Number(view.getBigUint64(at, true));
    else {
      const first = text.indexOf("\n", at);
      const second = text.indexOf("\n", first + 1);
      const name = `${text.slice(at, first)} ${text.slice(first + 1, second)}`;
      if (!NAMES.test(name)) return `has the name ${name}`;
      at = second + 1;
    }
    if (at > bytes.length) return "has an operand beyond its end";
  }
}

/** By the header block in front of each member's bytes; an unpacked archive is its members' own buffer. */
export function checkTar(bytes: Uint8Array, members: ReadonlyMap<string, Uint8Array>): string | null {
  let end = 0;
  for (const [name, content] of [...members].sort(([, a], [, b]) => a.byteOffset - b.byteOffset)) {
    if (!isPlainPath(name)) return `has the path ${JSON.stringify(name)}`;
    const isPacked = content.buffer !== bytes.buffer;
    const at = content.byteOffset - 512;
    if (at < end || (!isPacked && at + 512 + content.length > bytes.byteOffset + bytes.length)) return `has ${name} in another place`;
    const header = new TextDecoder("latin1").decode(new Uint8Array(content.buffer, at, 512));
    if (!/^[0\0]$/.test(header[156]!)) return `has ${name} of type ${JSON.stringify(header[156])}`;
    if (Number.parseInt(header.slice(124, 136).replace(/\0.*/s, "").trim(), 8) !== content.length) return `has ${name} of another length`;
    end = at + 512 + content.length;
  }
  return null;
}

/** Fields that change what an adapter computes, beyond those that are read. */
const FORBIDDEN = ["layer_replication", "use_qalora"];

export function checkConfig(bytes: Uint8Array, config: Pick<AdapterConfig, "rank" | "alpha" | "useRslora" | "invocation">): string | null {
  const json = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
  if (json["peft_type"] !== "LORA") return `is of type ${String(json["peft_type"])}`;
  const isEmpty = (value: unknown): boolean => value === null || value === undefined || value === false || (typeof value === "object" && Object.keys(value).length === 0);
  for (const field of FORBIDDEN) if (!isEmpty(json[field])) return `sets ${field}`;
  if (!isEmpty(json["target_parameters"])) {
    if (!Array.isArray(json["target_parameters"])) return "has target_parameters of another type";
    if (json["use_dora"] === true || json["lora_bias"] === true) return "has parameters in a form that PEFT does not train";
  }
  if (!["none", "all", "lora_only"].includes((json["bias"] ?? "none") as string)) return "trains biases by a rule of its own";
  if (!isEmpty(json["trainable_token_indices"])) {
    const lists = Array.isArray(json["trainable_token_indices"]) ? [json["trainable_token_indices"]] : Object.values(json["trainable_token_indices"] as object);
    for (const list of lists) if (!Array.isArray(list) || list.length === 0 || new Set(list).size < list.length || !list.every((id) => Number.isInteger(id) && id >= 0)) return "has a list of tokens that is none";
  }
  if (config.rank !== (json["r"] ?? 8) || !(config.rank >= 1)) return `has rank ${config.rank}`;
  if (config.alpha !== (json["lora_alpha"] ?? 8) || !(config.alpha > 0)) return `has alpha ${config.alpha}`;
  const invocation = isEmpty(json["alora_invocation_tokens"]) ? null : json["alora_invocation_tokens"];
  if (JSON.stringify(config.invocation) !== JSON.stringify(invocation)) return `acts from ${config.invocation?.join() ?? "everywhere"} on`;
  return config.useRslora === (json["use_rslora"] ?? false) ? null : "has another scale rule";
}
