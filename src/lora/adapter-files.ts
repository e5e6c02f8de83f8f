/** Files of an adapter, read whole into memory of our own and bounded. */
import { open, readdir } from "node:fs/promises";
import { AdapterError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";

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
 */
export async function readBounded(path: string, name: string, maxBytes: number): Promise<Uint8Array> {
  const file = await open(path, "r");
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new AdapterError("adapter_invalid", `${name} is not a regular file`);
    if (stat.size > maxBytes) {
      throw new AdapterError("adapter_too_large", `${name} has ${stat.size} bytes; at most ${maxBytes} are read`);
    }
    const bytes = new Uint8Array(stat.size);
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

/** Says which file a malformed one was, and that it is the adapter's fault. */
export function inFile<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (thrown) {
    if (!(thrown instanceof FormatError)) throw thrown;
    throw new AdapterError("adapter_invalid", `${name}: ${thrown.message}`, { cause: thrown });
  }
}
