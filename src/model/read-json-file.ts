/** Reads one JSON file of a model directory. */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { ModelError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { type JsonLimits, type JsonObject, parseJsonObject } from "../formats/json.ts";

/** Enough for every configuration seen; a list of long-context factors is the longest part. */
export const CONFIG_LIMITS: JsonLimits = { maxBytes: 1024 * 1024, maxDepth: 16 };

/**
 * @returns `undefined` when the directory has no such file
 * @throws {ModelError} `model_invalid` when it is over a limit, not JSON, or cannot be read
 */
export function readJsonFile(
  directory: string,
  file: string,
  limits: JsonLimits = CONFIG_LIMITS,
): JsonObject | undefined {
  const bytes = readBytes(directory, file, limits.maxBytes);
  if (bytes === undefined) return undefined;
  try {
    return parseJsonObject(bytes, limits);
  } catch (cause) {
    if (!(cause instanceof FormatError)) throw cause;
    throw new ModelError("model_invalid", `${file} is not usable: ${cause.message}`, { cause });
  }
}

function readBytes(directory: string, file: string, maxBytes: number): Uint8Array | undefined {
  const path = join(directory, file);
  try {
    const { size } = statSync(path);
    if (size > maxBytes) {
      throw new ModelError(
        "model_invalid",
        `${file} has ${size} bytes, more than the ${maxBytes} allowed`,
      );
    }
    return readFileSync(path);
  } catch (cause) {
    if (cause instanceof ModelError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new ModelError("model_invalid", `${file} cannot be read (${errorName(cause)})`, {
      cause,
    });
  }
}

/** The system's short name of a failure, `EACCES`, without the path that its message holds. */
export function errorName(thrown: unknown): string {
  return (thrown as NodeJS.ErrnoException).code ?? "unknown error";
}
