/** Files of an adapter, read whole into memory of our own and bounded. */
import { constants, type Stats } from "node:fs";
import { open, readdir, realpath, stat } from "node:fs/promises";
import { AdapterError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { isInside } from "./adapter-paths.ts";

export const MAX_WEIGHTS_BYTES = 2 * 1024 ** 3;

/**
 * Names in an adapter's directory; `null` for a path that is a file.
 *
 * @throws {AdapterError} `adapter_invalid` for a path that does not exist
 */
export async function listAdapter(path: string): Promise<ReadonlySet<string> | null> {
  try {
    return new Set(await readdir(path));
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ENOTDIR") return null;
    if (code !== "ENOENT") throw cause;
    throw new AdapterError("adapter_invalid", "the adapter's path does not exist", { cause, details: { path } });
  }
}

/**
 * A file that changes meanwhile cannot change what was checked: nothing stays mapped, the size is taken from the
 * open file.
 *
 * @param name of the file, for messages
 * @param within directories of which one must hold it after all links; left out for files that the operator named
 */
export async function readBounded(path: string, name: string, maxBytes: number, within?: readonly string[]): Promise<Uint8Array> {
  // Without O_NONBLOCK the opening of a pipe would wait for its writer.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const opened = await file.stat();
    if (within !== undefined && !(await liesWithin(path, opened, within))) {
      throw new AdapterError("adapter_invalid", `${name} is a link to a file outside of the directories that the server allows`);
    }
    if (!opened.isFile()) throw new AdapterError("adapter_invalid", `${name} is not a regular file`);
    if (opened.size > maxBytes) {
      throw new AdapterError("adapter_too_large", `${name} has ${opened.size} bytes; at most ${maxBytes} are read`);
    }
    const bytes = new Uint8Array(opened.size);
    let done = 0;
    while (done < bytes.length) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, done);
      if (bytesRead === 0) throw new AdapterError("adapter_invalid", `${name} became shorter while it was read`);
      done += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** Judges the file that was opened, whatever its path means a moment later. */
async function liesWithin(path: string, opened: Stats, directories: readonly string[]): Promise<boolean> {
  const real = await realpath(path).catch(() => null);
  if (real === null) return false;
  const found = await stat(real).catch(() => null);
  if (found === null || found.dev !== opened.dev || found.ino !== opened.ino) return false;
  const roots = await Promise.all(directories.map((directory) => realpath(directory).catch(() => null)));
  return roots.some((root) => root !== null && isInside(real, root));
}

/** Says which file a malformed one was, and that it is the adapter's fault. */
export function inFile<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (thrown) {
    if (!(thrown instanceof FormatError)) throw thrown;
    throw new AdapterError("adapter_invalid", `${name}: ${thrown.message}`, { cause: thrown });
  }
}
