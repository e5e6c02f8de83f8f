/** Archives and pickles in the layouts that torch and tar tools write, right or wrong on purpose. */
import { crc32, deflateRawSync } from "node:zlib";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const concat = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

function little(...fields: readonly (readonly [bytes: 2 | 4 | 8, value: number])[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [bytes, value] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else if (bytes === 4) view.setUint32(at, value, true);
    else view.setBigUint64(at, BigInt(value), true);
    at += bytes;
  }
  return new Uint8Array(view.buffer);
}

export interface ZipMember {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly deflate?: boolean;
  /** Sizes behind the data, zeros before it: as torch writes. */
  readonly descriptor?: boolean;
  /** Fields that lie. */
  readonly flags?: number;
  readonly method?: number;
  readonly crc?: number;
  readonly numBytes?: number;
  readonly localName?: string;
  /** Offset in the directory. */
  readonly start?: number;
  /** Only in the directory: the bytes are said to lie inside another member. */
  readonly isHidden?: boolean;
}

/** A member as it lies in an archive, in front of the directory. */
export const localPart = (member: ZipMember): Uint8Array => {
  const whole = encodeZip([{ ...member, isHidden: false }]);
  return whole.subarray(0, whole.length - 22 - 46 - text(member.name).length);
};

export interface ZipChange {
  /** A zip64 end record as torch writes it. */
  readonly zip64?: boolean;
  readonly numEntries?: number;
  readonly gap?: number;
  readonly comment?: string;
}

export function encodeZip(members: readonly ZipMember[], { zip64 = false, numEntries, gap = 0, comment = "" }: ZipChange = {}): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let at = 0;
  const add = (bytes: Uint8Array): void => {
    parts.push(bytes);
    at += bytes.length;
  };
  for (const member of members) {
    const { name, bytes, deflate = false, descriptor = false } = member;
    const packed = deflate ? new Uint8Array(deflateRawSync(bytes)) : bytes;
    const crc = member.crc ?? crc32(bytes);
    const numBytes = member.numBytes ?? bytes.length;
    const flags = member.flags ?? (descriptor ? 0x808 : 0);
    const method = member.method ?? (deflate ? 8 : 0);
    const start = member.start ?? at;
    const local = text(member.localName ?? name);
    const sizes = (isLocal: boolean) => [[4, isLocal && descriptor ? 0 : crc], [4, isLocal && descriptor ? 0 : packed.length], [4, isLocal && descriptor ? 0 : numBytes]] as const;
    if (member.isHidden !== true) {
      add(little([4, 0x04034b50], [2, 0], [2, flags], [2, method], [4, 0], ...sizes(true), [2, local.length], [2, 0]));
      add(local);
      add(packed);
      if (descriptor) add(little([4, 0x08074b50], ...sizes(false)));
    }
    directory.push(
      little([4, 0x02014b50], [2, 0], [2, 0], [2, flags], [2, method], [4, 0], ...sizes(false), [2, text(name).length], [2, 0], [2, 0], [2, 0], [2, 0], [4, 0], [4, start]),
      text(name),
    );
  }
  add(new Uint8Array(gap));
  const start = at;
  for (const part of directory) add(part);
  const size = at - start;
  const count = numEntries ?? members.length;
  if (zip64) {
    const end64 = at;
    add(little([4, 0x06064b50], [8, 44], [2, 0], [2, 0], [4, 0], [4, 0], [8, count], [8, count], [8, size], [8, start]));
    add(little([4, 0x07064b50], [4, 0], [8, end64], [4, 1]));
  }
  add(little([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, start], [2, comment.length]));
  add(text(comment));
  return concat(parts);
}

export interface TarMember {
  readonly name: string;
  readonly bytes?: Uint8Array;
  /** `0` for a file unless given. */
  readonly type?: string;
  readonly prefix?: string;
  /** Octal digits that lie. */
  readonly size?: string;
  readonly checksum?: string;
}

/** @param end blocks of zeros at the end */
export function encodeTar(members: readonly TarMember[], end = 2): Uint8Array {
  return concat([...members.map(encodeMember), new Uint8Array(512 * end)]);
}

function encodeMember({ name, bytes = new Uint8Array(0), type = "0", prefix = "", size, checksum }: TarMember): Uint8Array {
  const block = new Uint8Array(512 + Math.ceil(bytes.length / 512) * 512);
  const put = (at: number, value: string): void => block.set(text(value), at);
  put(0, name);
  put(100, "0000644\0");
  put(124, size ?? `${bytes.length.toString(8).padStart(11, "0")}\0`);
  put(136, "00000000000\0");
  put(148, "        ");
  put(156, type);
  put(257, "ustar\x0000");
  put(345, prefix);
  const sum = block.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  put(148, checksum ?? `${sum.toString(8).padStart(6, "0")}\0 `);
  block.set(bytes, 512);
  return block;
}

/** One record of a pax header. */
export function paxRecord(key: string, value: string): Uint8Array {
  const rest = ` ${key}=${value}\n`;
  let length = text(rest).length + 1;
  while (String(length).length + text(rest).length !== length) length++;
  return text(length + rest);
}

// ---- pickles -----------------------------------------------------------------------------------------

const byte = (...values: number[]): Uint8Array => Uint8Array.from(values);

/** Opcodes as functions, so that a test reads like the disassembly of what it writes. */
export const op = {
  proto: (version: number) => byte(0x80, version),
  stop: () => byte(0x2e),
  mark: () => byte(0x28),
  none: () => byte(0x4e),
  yes: () => byte(0x88),
  no: () => byte(0x89),
  int: (value: number) => concat([byte(0x4a), little([4, value >>> 0])]),
  long: (value: bigint) => {
    const bytes: number[] = [];
    for (let rest = value; rest > 0n; rest >>= 8n) bytes.push(Number(rest & 255n));
    return byte(0x8a, bytes.length + 1, ...bytes, 0);
  },
  text: (value: string) => concat([byte(0x58), little([4, text(value).length]), text(value)]),
  shortText: (value: string) => concat([byte(0x8c, text(value).length), text(value)]),
  global: (module: string, name: string) => text(`c${module}\n${name}\n`),
  stackGlobal: () => byte(0x93),
  emptyTuple: () => byte(0x29),
  tuple: () => byte(0x74),
  emptyDict: () => byte(0x7d),
  emptyList: () => byte(0x5d),
  append: () => byte(0x61),
  appends: () => byte(0x65),
  setItem: () => byte(0x73),
  setItems: () => byte(0x75),
  put: (index: number) => byte(0x71, index),
  get: (index: number) => byte(0x68, index),
  memoize: () => byte(0x94),
  frame: (length: number) => concat([byte(0x95), little([8, length])]),
  persistent: () => byte(0x51),
  reduce: () => byte(0x52),
  newObject: () => byte(0x81),
  build: () => byte(0x62),
  pop: () => byte(0x30),
} as const;

export const pickle = (...parts: readonly Uint8Array[]): Uint8Array => concat([op.proto(2), ...parts, op.stop()]);

export interface PickledTensor {
  readonly name: string;
  readonly key?: string;
  readonly storage?: string;
  /** Elements of the storage. */
  readonly count: number;
  readonly shape: readonly number[];
  readonly strides?: readonly number[];
  readonly offset?: number;
}

const tuple = (items: readonly Uint8Array[]): Uint8Array => concat([op.mark(), ...items, op.tuple()]);

export function storageId({ key = "0", storage = "FloatStorage", count }: PickledTensor, isLegacy: boolean): Uint8Array {
  const items = [op.text("storage"), op.global("torch", storage), op.text(key), op.text("cpu"), op.int(count)];
  return concat([tuple(isLegacy ? [...items, op.none()] : items), op.persistent()]);
}

export function pickledTensor(tensor: PickledTensor, isLegacy = false): Uint8Array {
  const { shape, offset = 0 } = tensor;
  const strides = tensor.strides ?? shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));
  return concat([
    op.global("torch._utils", "_rebuild_tensor_v2"),
    tuple([
      storageId(tensor, isLegacy), op.int(offset), tuple(shape.map(op.int)), tuple(strides.map(op.int)), op.no(),
      op.global("collections", "OrderedDict"), op.emptyTuple(), op.reduce(),
    ]),
    op.reduce(),
  ]);
}

export const pickledDict = (tensors: readonly PickledTensor[], isLegacy = false): Uint8Array =>
  pickle(op.emptyDict(), op.mark(), ...tensors.flatMap((tensor) => [op.text(tensor.name), pickledTensor(tensor, isLegacy)]), op.setItems());

/** A torch file of a pickle and the bytes of its storages. */
export const encodeTorch = (pickled: Uint8Array, storages: Readonly<Record<string, Uint8Array>>, changes: readonly ZipMember[] = []): Uint8Array =>
  encodeZip(
    [
      { name: "x/data.pkl", bytes: pickled, descriptor: true },
      { name: "x/byteorder", bytes: text("little"), descriptor: true },
      ...Object.entries(storages).map(([key, bytes]) => ({ name: `x/data/${key}`, bytes, descriptor: true })),
      { name: "x/version", bytes: text("3\n"), descriptor: true },
      ...changes,
    ],
    { zip64: true },
  );

export const encodeLegacyTorch = (pickled: Uint8Array, storages: Readonly<Record<string, { count: number; bytes: Uint8Array }>>): Uint8Array =>
  concat([
    pickle(op.long(0x1950a86a20f9469cfc6cn)),
    pickle(op.int(1001)),
    pickle(op.emptyDict(), op.mark(), op.text("little_endian"), op.yes(), op.setItems()),
    pickled,
    pickle(op.emptyList(), op.mark(), ...Object.keys(storages).map(op.text), op.appends()),
    ...Object.values(storages).flatMap(({ count, bytes }) => [little([8, count]), bytes]),
  ]);
