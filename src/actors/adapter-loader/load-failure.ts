/** Which failures of a load may pass by themselves, and how a load's failure is told. */
import { AdapterError, LorikeetError } from "../../core/errors.ts";

/** System errors that say "not now" and not "never". */
const TRANSIENT_CODES: ReadonlySet<string> = new Set([
  "EAGAIN",
  "EBUSY",
  "ECONNRESET",
  "EIO",
  "EMFILE",
  "ENFILE",
  "ENOMEM",
  "ESTALE",
  "ETIMEDOUT",
]);

/** The transient system error behind what was thrown, `null` when there is none. */
export function transientCode(thrown: unknown): string | null {
  for (let error = thrown, depth = 0; error instanceof Error && depth < 4; depth++) {
    if ("code" in error && typeof error.code === "string" && TRANSIENT_CODES.has(error.code)) {
      return error.code;
    }
    error = error.cause;
  }
  return null;
}

/** A load's error for people: without the path that a system error would show. */
export function toLoadError(thrown: unknown, numAttempts: number): LorikeetError {
  const code = transientCode(thrown);
  if (code !== null) {
    return new AdapterError(
      "adapter_invalid",
      `the adapter's files could not be read: ${code} in ${numAttempts} attempts; try again later`,
      { cause: thrown },
    );
  }
  if (thrown instanceof LorikeetError) return thrown;
  return new AdapterError(
    "adapter_invalid",
    "the adapter's files could not be read; the server's log says why",
    { cause: thrown },
  );
}

export const timeoutError = (timeoutMs: number): LorikeetError =>
  new AdapterError(
    "adapter_invalid",
    `the adapter's files could not be read within ${timeoutMs / 1000} seconds; try again later`,
  );
