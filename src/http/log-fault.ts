/** What the operator must see: not a client's own mistakes. */
import { type ErrorCode, toLorikeetError } from "../core/errors.ts";
import type { HttpDependencies } from "./dependencies.ts";
import { requestIdOf } from "./request-id.ts";

const FAULTS: ReadonlySet<ErrorCode> = new Set([
  "invariant_violated",
  "backend_failed",
  "backend_unavailable",
  "non_finite_logits",
]);

/** @param request which it was about, if one */
export function logFault({ log, health }: Pick<HttpDependencies, "log" | "health">, thrown: unknown, request?: Request): void {
  const error = toLorikeetError(thrown);
  if (error.errorCode === "backend_failed") health.hasFailed = true;
  if (!FAULTS.has(error.errorCode)) return;
  const id = request === undefined ? {} : { requestId: requestIdOf(request) };
  log.error({ ...id, err: error.cause ?? error, code: error.errorCode }, error.message);
}
