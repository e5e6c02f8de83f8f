/** A safetensors file that stays on disk: the header in memory, the tensors read where they are wanted. */
import { closeSync, fstatSync, openSync, readSync, type Stats } from "node:fs";
import { open } from "node:fs/promises";
import { FormatError } from "./format-error.ts";
import {
  BASE_MODEL_LIMITS,
  headerLength,
  parseHeader,
  type SafetensorsHeader,
  type SafetensorsLimits,
  type TensorEntry,
} from "./safetensors.ts";

/** Largest single read; the system's own limit is just below 2 GiB. */
const MAX_READ_BYTES = 1 << 30;

export class SafetensorsFile {
  readonly #path: string;
  readonly #header: SafetensorsHeader;
  /** Size, inode and time of change: what tells this file from one put in its place. */
  readonly #identity: string;

  private constructor(path: string, header: SafetensorsHeader, identity: string) {
    this.#path = path;
    this.#header = header;
    this.#identity = identity;
  }

  /**
   * Reads and checks the header.
   *
   * @throws {FormatError} when the file is malformed
   * @throws {Error} of the system when it cannot be opened or read
   */
  static open(path: string, limits: SafetensorsLimits = BASE_MODEL_LIMITS): SafetensorsFile {
    return withFile(path, (fd, fileBytes, identity) => {
      const prefix = new Uint8Array(Math.min(8, fileBytes));
      readFully(fd, prefix, 0);
      const json = new Uint8Array(headerLength(prefix, fileBytes, limits));
      readFully(fd, json, 8);
      return new SafetensorsFile(path, parseHeader(json, fileBytes, limits), identity);
    });
  }

  get tensors(): ReadonlyMap<string, TensorEntry> {
    return this.#header.tensors;
  }

  /**
   * Reads bytes of one tensor into all of `target`, which may view shared memory.
   *
   * The file is opened for each call, so that nothing has to be closed and nothing stays mapped.
   *
   * @param offset bytes from the tensor's first; the read must end inside the tensor
   * @throws {FormatError} when the file was changed since its header was read
   */
  read(entry: TensorEntry, offset: number, target: Uint8Array): void {
    const position = this.#position(entry, offset, target);
    withFile(this.#path, (fd, _, identity) => {
      if (identity !== this.#identity) throw changed();
      readFully(fd, target, position);
    });
  }

  /** The same on a thread of the runtime's own; several may be under way. */
  async readAsync(entry: TensorEntry, offset: number, target: Uint8Array): Promise<void> {
    const position = this.#position(entry, offset, target);
    const file = await open(this.#path, "r");
    try {
      if (identityOf(await file.stat()) !== this.#identity) throw changed();
      for (let done = 0; done < target.length;) {
        const { bytesRead } = await file.read(target, done, Math.min(target.length - done, MAX_READ_BYTES), position + done);
        if (bytesRead === 0) throw cut();
        done += bytesRead;
      }
    } finally {
      await file.close();
    }
  }

  #position(entry: TensorEntry, offset: number, target: Uint8Array): number {
    if (offset < 0 || entry.begin + offset + target.length > entry.end) {
      throw new FormatError(`a read of ${target.length} bytes at ${offset} leaves the tensor`);
    }
    return this.#header.dataStart + entry.begin + offset;
  }
}

const identityOf = ({ size, ino, mtimeMs }: Pick<Stats, "size" | "ino" | "mtimeMs">): string => `${size}:${ino}:${mtimeMs}`;
const changed = (): FormatError => new FormatError("the file was changed while it was read");
const cut = (): FormatError => new FormatError("the file became shorter while it was read");

function withFile<T>(path: string, use: (fd: number, fileBytes: number, identity: string) => T): T {
  const fd = openSync(path, "r");
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new FormatError("the safetensors file is not a regular file");
    return use(fd, stat.size, identityOf(stat));
  } finally {
    closeSync(fd);
  }
}

function readFully(fd: number, target: Uint8Array, position: number): void {
  for (let done = 0; done < target.length;) {
    const length = Math.min(target.length - done, MAX_READ_BYTES);
    const count = readSync(fd, target, done, length, position + done);
    if (count === 0) throw cut();
    done += count;
  }
}
