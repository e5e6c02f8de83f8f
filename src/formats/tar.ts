/**
 * Tar archives held in memory: ustar with GNU long names and pax headers, plain or in one gzip stream.
 *
 * Members are views of the bytes, never files on disk. Links, devices and sparse files are refused, as are pax
 * records that would change what a member is.
 *
 * @source https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html; https://www.gnu.org/software/tar/manual/html_node/Standard.html
 */
import { gunzipSync } from "node:zlib";
import { FormatError, quoted } from "./format-error.ts";
import { checkMemberName, MAX_MEMBER_NAME_BYTES } from "./member-name.ts";

export interface TarLimits {
  readonly maxMembers: number;
  /** Bytes of the archive once unpacked. */
  readonly maxTotalBytes: number;
  /** Unpacked over packed bytes of a gzip stream. */
  readonly maxRatio: number;
}

export const TAR_LIMITS: TarLimits = { maxMembers: 1000, maxTotalBytes: 2 * 1024 ** 3, maxRatio: 20 };

const BLOCK = 512;
/** Empty blocks at the end compress very well; small archives may be mostly these. */
const PADDING_BYTES = 64 * 1024;
/** Of one pax header or long name. */
const MAX_EXTENSION_BYTES = 16 * 1024;
/** pax records that say nothing about a member's bytes. */
const HARMLESS_RECORDS = new Set(["mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment"]);

/**
 * @returns regular members by path, without a leading `./`
 * @throws {FormatError} for anything but a plain archive within `limits`
 */
export function parseTar(bytes: Uint8Array, limits: TarLimits = TAR_LIMITS): Map<string, Uint8Array> {
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b;
  return readMembers(isGzip ? gunzip(bytes, limits) : bytes, limits);
}

function gunzip(bytes: Uint8Array, { maxTotalBytes, maxRatio }: TarLimits): Uint8Array {
  const maxOutputLength = Math.min(maxTotalBytes, bytes.length * maxRatio + PADDING_BYTES);
  try {
    return asBytes(gunzipSync(bytes, { maxOutputLength }));
  } catch (cause) {
    throw new FormatError(`the gzip stream of ${bytes.length} bytes is damaged, or unpacks to more than the ${maxOutputLength} bytes allowed`, { cause });
  }
}

function readMembers(bytes: Uint8Array, limits: TarLimits): Map<string, Uint8Array> {
  const members = new Map<string, Uint8Array>();
  /** A name that an extension gave to the member after it. */
  let longName: string | null = null;
  let count = 0;
  for (let at = 0; ; ) {
    const header = bytes.subarray(at, at + BLOCK);
    if (header.length < BLOCK) throw new FormatError(`the tar archive ends at byte ${bytes.length} without its end marker: it is truncated`);
    if (isZero(header)) {
      if (longName !== null) throw new FormatError("the tar archive ends after a long name that belongs to no member");
      if (!isZero(bytes.subarray(at))) throw new FormatError("the tar archive goes on after its end marker");
      return members;
    }
    if (++count > limits.maxMembers) throw new FormatError(`the tar archive has more than the ${limits.maxMembers} members allowed`);
    const { name, size, type } = readHeader(header, longName);
    const from = at + BLOCK;
    const end = from + size;
    if (end > bytes.length) throw new FormatError(`the tar member ${quoted(name)} has ${size} bytes, but only ${bytes.length - from} follow`);
    const content = bytes.subarray(from, end);
    at = from + Math.ceil(size / BLOCK) * BLOCK;
    if (type === "L" || type === "x" || type === "g") {
      if (size > MAX_EXTENSION_BYTES) throw new FormatError(`the tar archive has an extension of ${size} bytes, more than the ${MAX_EXTENSION_BYTES} allowed`);
      const given = type === "L" ? terminated(content) : paxPath(content);
      if (given === null) continue;
      if (longName !== null || type === "g") throw new FormatError("the tar archive names a member twice, or all members at once");
      longName = given;
      continue;
    }
    longName = null;
    if (type === "5") {
      if (size !== 0) throw new FormatError(`the tar archive has a directory ${quoted(name)} of ${size} bytes`);
      continue;
    }
    if (type !== "0" && type !== "\0") {
      throw new FormatError(`the tar member ${quoted(name)} has type ${quoted(type)}; links, devices and sparse files are refused`);
    }
    if (members.has(name)) throw new FormatError(`the tar archive has two members named ${quoted(name)}`);
    members.set(name, content);
  }
}

function readHeader(header: Uint8Array, longName: string | null): { name: string; size: number; type: string } {
  if (checksum(header) !== octal(header, 148, 8, "checksum")) throw new FormatError("the tar archive has a header whose checksum is wrong");
  const type = String.fromCharCode(header[156]!);
  const size = octal(header, 124, 12, "size");
  if (type === "L" || type === "x" || type === "g") return { name: "", size, type };
  const raw = longName ?? headerName(header);
  // Archives of a directory hold the directory itself.
  const plain = raw.replace(/^(\.\/)+/, "").replace(/\/$/, type === "5" ? "" : "/");
  if (type === "5" && (plain === "" || plain === ".")) return { name: ".", size, type };
  checkMemberName(plain, "tar archive");
  return { name: plain, size, type };
}

function headerName(header: Uint8Array): string {
  const name = untilNul(header.subarray(0, 100));
  const magic = String.fromCharCode(...header.subarray(257, 263));
  // GNU's own magic keeps other things where ustar has a prefix.
  const prefix = magic === "ustar\0" ? untilNul(header.subarray(345, 500)) : "";
  return decode(name, prefix);
}

function decode(name: Uint8Array, prefix: Uint8Array | string): string {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  try {
    const head = typeof prefix === "string" ? prefix : utf8.decode(prefix);
    return head === "" ? utf8.decode(name) : `${head}/${utf8.decode(name)}`;
  } catch (cause) {
    throw new FormatError("the tar archive has a member name that is not valid UTF-8", { cause });
  }
}

/** The path in a pax header, if it has one. */
function paxPath(content: Uint8Array): string | null {
  const keys = new Set<string>();
  let path: string | null = null;
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at);
    const digits = space === -1 || space - at > 6 ? "" : String.fromCharCode(...content.subarray(at, space));
    const end = at + Number(digits);
    const equals = content.indexOf(0x3d, space);
    if (!/^[1-9][0-9]*$/.test(digits) || end > content.length || content[end - 1] !== 0x0a || equals === -1 || equals >= end) {
      throw new FormatError("the tar archive has a pax header that cannot be read");
    }
    const key = decode(content.subarray(space + 1, equals), "");
    if (keys.has(key) || (key !== "path" && !HARMLESS_RECORDS.has(key))) {
      throw new FormatError(`the tar archive has the pax record ${quoted(key)}, which is refused or there twice`);
    }
    keys.add(key);
    if (key === "path") path = terminated(content.subarray(equals + 1, end - 1));
    at = end;
  }
  return path;
}

/** A name of any length; a NUL may only end it. */
function terminated(content: Uint8Array): string {
  const name = content.at(-1) === 0 ? content.subarray(0, -1) : content;
  if (name.length > MAX_MEMBER_NAME_BYTES + 2) {
    throw new FormatError(`the tar archive has a member name of ${name.length} bytes, more than the ${MAX_MEMBER_NAME_BYTES} allowed`);
  }
  const text = decode(name, "");
  if (text.includes("\0")) throw new FormatError("the tar archive has a member name with a NUL inside");
  return text;
}

/** Octal digits, spaces around them; base-256 numbers, which only files beyond 8 GiB need, are refused. */
function octal(header: Uint8Array, at: number, length: number, field: string): number {
  const digits = String.fromCharCode(...header.subarray(at, at + length)).replace(/^ +/, "").replace(/[ \0]+$/, "");
  if (!/^[0-7]+$/.test(digits)) throw new FormatError(`the tar archive has a header whose ${field} is not an octal number`);
  return Number.parseInt(digits, 8);
}

/** Sum of the header's bytes, its checksum field read as spaces. */
function checksum(header: Uint8Array): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += header[i]!;
  return sum;
}

/** Without what Buffer changes about `slice`. */
const asBytes = ({ buffer, byteOffset, length }: Buffer): Uint8Array => new Uint8Array(buffer, byteOffset, length);

const untilNul = (bytes: Uint8Array): Uint8Array => {
  const end = bytes.indexOf(0);
  return end === -1 ? bytes : bytes.subarray(0, end);
};

const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);
