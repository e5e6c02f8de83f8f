/** What the operator must see: not a client's own mistakes. */
import { type ErrorCode, toLorikeetError } from "../core/errors.ts";
import type { HttpDependencies } from "./dependencies.ts";

const FAULTS: ReadonlySet<ErrorCode> = new Set([
  "invariant_violated",
  "backend_failed",
  "backend_unavailable",
  "non_finite_logits",
]);

export function logFault({ log, health }: Pick<HttpDependencies, "log" | "health">, thrown: unknown): void {
  const error = toLorikeetError(thrown);
  if (error.errorCode === "backend_failed") health.hasFailed = true;
  if (FAULTS.has(error.errorCode)) log.error({ err: error.cause ?? error, code: error.errorCode }, error.message);
}
