/**
 * Zip archives held in memory, as `torch.save` and common tools write them.
 *
 * Two readers of one archive must never see two different contents, so it is read strictly: the end record is
 * the last thing in the file, the central directory decides, local headers must agree with it, and the entries
 * fill everything before it without hole or overlap.
 *
 * @source https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 to 4.5
 */
import { crc32, inflateRawSync } from "node:zlib";
import { FormatError, quoted } from "./format-error.ts";
import { memberName } from "./member-name.ts";

export interface ZipLimits {
  readonly maxEntries: number;
  /** Bytes of all entries, unpacked. */
  readonly maxTotalBytes: number;
  /** Unpacked over packed bytes of one deflated entry. */
  readonly maxRatio: number;
}

export const ZIP_LIMITS: ZipLimits = { maxEntries: 20_000, maxTotalBytes: 2 * 1024 ** 3, maxRatio: 20 };

export interface ZipEntry {
  readonly name: string;
  readonly method: "stored" | "deflated";
  readonly crc: number;
  /** Bytes once unpacked. */
  readonly numBytes: number;
  /** As they lie in the file: a view of it. */
  readonly packed: Uint8Array;
}

const END = 0x06054b50;
const END_BYTES = 22;
const LOCATOR = 0x07064b50;
const LOCATOR_BYTES = 20;
const END64 = 0x06064b50;
const END64_BYTES = 56;
const CENTRAL = 0x02014b50;
const CENTRAL_BYTES = 46;
const LOCAL = 0x04034b50;
const LOCAL_BYTES = 30;
const DESCRIPTOR = 0x08074b50;
const ZIP64_EXTRA = 1;

/** Values that say: look into the zip64 record instead. */
const MARK16 = 0xffff;
const MARK32 = 0xffffffff;

const FLAG_DESCRIPTOR = 0x0008;
/** Compression level, data descriptor, UTF-8 names. Anything else, encryption first, is refused. */
const KNOWN_FLAGS = 0x080e;

/**
 * Reads and checks the directory; nothing is unpacked yet.
 *
 * @throws {FormatError} for anything but a plain archive within `limits`
 */
export function parseZip(bytes: Uint8Array, limits: ZipLimits = ZIP_LIMITS): Map<string, ZipEntry> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const directory = readEnd(view);
  if (directory.numEntries > limits.maxEntries) {
    throw new FormatError(`the zip archive has ${directory.numEntries} entries, more than the ${limits.maxEntries} allowed`);
  }
  const headers = readDirectory(bytes, view, directory, limits);
  const entries = new Map<string, ZipEntry>();
  let reached = 0;
  for (const header of headers.toSorted((a, b) => a.start - b.start)) {
    const from = readLocal(bytes, view, header, reached, directory.start);
    reached = from + header.packedBytes;
    entries.set(header.name, {
      name: header.name,
      method: header.method,
      crc: header.crc,
      numBytes: header.numBytes,
      packed: bytes.subarray(from, reached),
    });
    if ((header.flags & FLAG_DESCRIPTOR) !== 0) reached += descriptorBytes(view, header, reached, directory.start);
  }
  if (reached !== directory.start) {
    throw new FormatError(`the zip archive has ${directory.start - reached} bytes between its last entry and its directory`);
  }
  return entries;
}

/**
 * Unpacks one entry, in place where it is stored.
 *
 * @throws {FormatError} when the bytes are not what the directory says
 */
export function unpackEntry(entry: ZipEntry): Uint8Array {
  const bytes = entry.method === "stored" ? entry.packed : inflate(entry);
  if (bytes.length !== entry.numBytes) {
    throw new FormatError(`the zip entry ${quoted(entry.name)} unpacks to ${bytes.length} bytes, but its directory says ${entry.numBytes}`);
  }
  if (crc32(bytes) !== entry.crc) throw new FormatError(`the zip entry ${quoted(entry.name)} is damaged: its checksum is wrong`);
  return bytes;
}

function inflate({ name, packed, numBytes }: ZipEntry): Uint8Array {
  try {
    const { buffer, byteOffset, length } = inflateRawSync(packed, { maxOutputLength: Math.max(1, numBytes) });
    return new Uint8Array(buffer, byteOffset, length);
  } catch (cause) {
    throw new FormatError(`the zip entry ${quoted(name)} cannot be unpacked to the ${numBytes} bytes its directory says`, { cause });
  }
}

interface Directory {
  readonly numEntries: number;
  readonly start: number;
  /** One past its last byte. */
  readonly end: number;
}

function readEnd(view: DataView): Directory {
  const at = view.byteLength - END_BYTES;
  if (at < 0 || view.getUint32(at, true) !== END || view.getUint16(at + 20, true) !== 0) {
    throw new FormatError("the zip archive must end with its end record, without a comment: it is truncated, or something follows it");
  }
  const end = {
    disk: view.getUint16(at + 4, true),
    directoryDisk: view.getUint16(at + 6, true),
    onDisk: view.getUint16(at + 8, true),
    numEntries: view.getUint16(at + 10, true),
    numBytes: view.getUint32(at + 12, true),
    start: view.getUint32(at + 16, true),
  };
  const locator = at - LOCATOR_BYTES;
  const large = locator >= END64_BYTES && view.getUint32(locator, true) === LOCATOR ? readEnd64(view, locator) : null;
  const found = large ?? { ...end, at };
  if (large !== null) {
    const agree = (small: number, mark: number, value: number): boolean => small === mark || small === value;
    if (!agree(end.numEntries, MARK16, large.numEntries) || !agree(end.numBytes, MARK32, large.numBytes) || !agree(end.start, MARK32, large.start)) {
      throw new FormatError("the zip archive's two end records disagree");
    }
  }
  const isOneDisk = (end.disk === 0 || end.disk === MARK16) && (end.directoryDisk === 0 || end.directoryDisk === MARK16) &&
    (end.onDisk === end.numEntries || end.onDisk === MARK16);
  if (!isOneDisk) throw new FormatError("the zip archive is one part of several; only whole archives are read");
  if (found.start + found.numBytes !== found.at || found.numEntries * CENTRAL_BYTES > found.numBytes) {
    throw new FormatError(
      `the zip archive's directory of ${found.numEntries} entries and ${found.numBytes} bytes at ${found.start} does not end at its end record`,
    );
  }
  return { numEntries: found.numEntries, start: found.start, end: found.at };
}

function readEnd64(view: DataView, locator: number) {
  const at = locator - END64_BYTES;
  const isPlain = safeUint64(view, locator + 8) === at && view.getUint32(at, true) === END64 && safeUint64(view, at + 4) === END64_BYTES - 12 &&
    view.getUint32(at + 16, true) === 0 && view.getUint32(at + 20, true) === 0 && safeUint64(view, at + 24) === safeUint64(view, at + 32); // NaN equals nothing
  if (!isPlain) throw new FormatError("the zip archive's zip64 end record is not where its locator says, or not of one whole archive");
  return { numEntries: safeUint64(view, at + 32), numBytes: safeUint64(view, at + 40), start: safeUint64(view, at + 48), at };
}

interface Header {
  readonly name: string;
  readonly nameBytes: Uint8Array;
  readonly flags: number;
  readonly method: ZipEntry["method"];
  readonly crc: number;
  readonly packedBytes: number;
  readonly numBytes: number;
  /** Offset of the local header. */
  readonly start: number;
}

function readDirectory(bytes: Uint8Array, view: DataView, directory: Directory, limits: ZipLimits): Header[] {
  const headers: Header[] = [];
  const names = new Set<string>();
  let total = 0;
  let at = directory.start;
  for (let i = 0; i < directory.numEntries; i++) {
    if (at + CENTRAL_BYTES > directory.end || view.getUint32(at, true) !== CENTRAL) {
      throw new FormatError(`the zip archive's directory has no entry ${i + 1} of ${directory.numEntries}`);
    }
    const nameBytes = view.getUint16(at + 28, true);
    const extraBytes = view.getUint16(at + 30, true);
    const next = at + CENTRAL_BYTES + nameBytes + extraBytes + view.getUint16(at + 32, true);
    if (next > directory.end) throw new FormatError(`the zip archive's directory ends inside its entry ${i + 1}`);
    const header = readHeader(bytes, view, at, nameBytes, extraBytes);
    if (names.has(header.name)) throw new FormatError(`the zip archive has two entries named ${quoted(header.name)}`);
    names.add(header.name);
    checkSizes(header, limits);
    total += header.numBytes;
    if (total > limits.maxTotalBytes) {
      throw new FormatError(`the zip archive unpacks to more than the ${limits.maxTotalBytes} bytes allowed`);
    }
    headers.push(header);
    at = next;
  }
  if (at !== directory.end) throw new FormatError(`the zip archive's directory has ${directory.end - at} bytes after its last entry`);
  return headers;
}

function readHeader(bytes: Uint8Array, view: DataView, at: number, nameLength: number, extraLength: number): Header {
  const nameBytes = bytes.subarray(at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameLength);
  const name = memberName(nameBytes, "zip archive");
  const flags = view.getUint16(at + 8, true);
  const method = view.getUint16(at + 10, true);
  if ((flags & ~KNOWN_FLAGS) !== 0) {
    throw new FormatError(`the zip entry ${quoted(name)} has flags 0x${flags.toString(16)}; encrypted and patched entries are not read`);
  }
  if (method !== 0 && method !== 8) {
    throw new FormatError(`the zip entry ${quoted(name)} has compression method ${method}; stored and deflated entries are read`);
  }
  const disk = view.getUint16(at + 34, true);
  if (disk !== 0 && disk !== MARK16) throw new FormatError(`the zip entry ${quoted(name)} is on part ${disk} of several; only whole archives are read`);
  const numBytes = view.getUint32(at + 24, true);
  const packedBytes = view.getUint32(at + 20, true);
  const start = view.getUint32(at + 42, true);
  const sizes = { numBytes, packedBytes, start };
  const isLarge = numBytes === MARK32 || packedBytes === MARK32 || start === MARK32;
  return {
    name,
    nameBytes,
    flags,
    method: method === 0 ? "stored" : "deflated",
    crc: view.getUint32(at + 16, true),
    ...(isLarge ? largeSizes(view, name, sizes, at + CENTRAL_BYTES + nameLength, extraLength) : sizes),
  };
}

/** Replaces marked sizes by those of the zip64 extra field, which holds just them, in this order. */
function largeSizes(
  view: DataView,
  name: string,
  sizes: Pick<Header, "numBytes" | "packedBytes" | "start">,
  extraAt: number,
  extraLength: number,
): Pick<Header, "numBytes" | "packedBytes" | "start"> {
  const missing = (): FormatError => new FormatError(`the zip entry ${quoted(name)} lacks the zip64 sizes that it announces`);
  let at = extraAt;
  const extraEnd = extraAt + extraLength;
  while (at + 4 <= extraEnd && view.getUint16(at, true) !== ZIP64_EXTRA) at += 4 + view.getUint16(at + 2, true);
  if (at + 4 > extraEnd) throw missing();
  const end = at + 4 + view.getUint16(at + 2, true);
  if (end > extraEnd) throw missing();
  at += 4;
  const large = (value: number): number => {
    if (value !== MARK32) return value;
    if (at + 8 > end) throw missing();
    at += 8;
    const wide = safeUint64(view, at - 8);
    if (Number.isNaN(wide)) throw missing();
    return wide;
  };
  return { numBytes: large(sizes.numBytes), packedBytes: large(sizes.packedBytes), start: large(sizes.start) };
}

function checkSizes({ name, method, packedBytes, numBytes }: Header, { maxRatio }: ZipLimits): void {
  if (method === "stored" && packedBytes !== numBytes) {
    throw new FormatError(`the zip entry ${quoted(name)} is stored in ${packedBytes} bytes, but says it has ${numBytes}`);
  }
  if (method === "deflated" && numBytes > packedBytes * maxRatio) {
    throw new FormatError(`the zip entry ${quoted(name)} unpacks from ${packedBytes} to ${numBytes} bytes, more than ${maxRatio} times as many`);
  }
}

/** @returns where the entry's bytes begin; they end before `limit` */
function readLocal(bytes: Uint8Array, view: DataView, header: Header, reached: number, limit: number): number {
  const { name, start, nameBytes } = header;
  if (start !== reached) {
    const fault = start < reached ? "overlaps the entry before it" : "leaves a hole before it";
    throw new FormatError(`the zip entry ${quoted(name)} begins at byte ${start} and ${fault}, which ends at ${reached}`);
  }
  const outside = (): FormatError => new FormatError(`the zip entry ${quoted(name)} reaches into the archive's directory`);
  if (start + LOCAL_BYTES > limit) throw outside();
  const nameLength = view.getUint16(start + 26, true);
  const from = start + LOCAL_BYTES + nameLength + view.getUint16(start + 28, true);
  if (from + header.packedBytes > limit) throw outside();
  const hasDescriptor = (header.flags & FLAG_DESCRIPTOR) !== 0;
  const localName = bytes.subarray(start + LOCAL_BYTES, start + LOCAL_BYTES + nameLength);
  const agrees = (at: number, value: number): boolean => {
    const found = view.getUint32(at, true);
    return found === value || (found === MARK32 && at !== start + 14) || (hasDescriptor && found === 0);
  };
  const isSame = view.getUint32(start, true) === LOCAL && view.getUint16(start + 6, true) === header.flags &&
    view.getUint16(start + 8, true) === (header.method === "stored" ? 0 : 8) &&
    agrees(start + 14, header.crc) && agrees(start + 18, header.packedBytes) && agrees(start + 22, header.numBytes) &&
    localName.length === nameBytes.length && localName.every((byte, i) => byte === nameBytes[i]);
  if (!isSame) throw new FormatError(`the zip entry ${quoted(name)} is not what the archive's directory says at byte ${start}`);
  return from;
}

/** Length of the record behind an entry whose sizes were not known when it was written. */
function descriptorBytes(view: DataView, { name, crc, packedBytes, numBytes }: Header, at: number, limit: number): number {
  const uint32 = (offset: number): number => (at + offset + 4 <= limit ? view.getUint32(at + offset, true) : -1);
  const uint64 = (offset: number): number => (at + offset + 8 <= limit ? safeUint64(view, at + offset) : -1);
  for (const skip of uint32(0) === DESCRIPTOR ? [4, 0] : [0]) {
    if (uint32(skip) !== crc) continue;
    // Small sizes read as 64 bits as well where the entry has none; the wider record is looked for first.
    if (uint64(skip + 4) === packedBytes && uint64(skip + 12) === numBytes) return skip + 20;
    if (uint32(skip + 4) === packedBytes && uint32(skip + 8) === numBytes) return skip + 12;
  }
  throw new FormatError(`the zip entry ${quoted(name)} has no data descriptor behind it, though it announces one`);
}

/** Not a number, so that every comparison with it fails, for what is beyond the exact integers. */
function safeUint64(view: DataView, at: number): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  return Number.isSafeInteger(value) ? value : Number.NaN;
}
