/** Error codes to HTTP statuses, and OpenAI's error body. */
import { type ErrorCode, type LorikeetError, RequestError, toLorikeetError } from "../core/errors.ts";

/** A new code without a status does not compile. */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  invalid_request: 400,
  context_length_exceeded: 400,
  model_not_found: 404,
  unauthorized: 401,
  forbidden_path: 403,
  admin_only: 403,
  payload_too_large: 413,
  misdirected_request: 421,
  route_not_found: 404,
  method_not_allowed: 405,
  unsupported_media_type: 415,
  adapter_not_found: 404,
  adapter_exists: 400,
  adapter_invalid: 400,
  adapter_unsupported: 400,
  adapter_too_large: 400,
  model_invalid: 500,
  model_unsupported: 500,
  config_invalid: 500,
  source_refused: 400,
  queue_full: 429,
  rate_limit_exceeded: 429,
  shutting_down: 503,
  source_unavailable: 503,
  request_timeout: 504,
  backend_unavailable: 503,
  backend_failed: 500,
  non_finite_logits: 500,
  invariant_violated: 500,
};

/** Seconds a client should wait before it tries again. */
const RETRY_AFTER: Partial<Record<ErrorCode, number>> = { queue_full: 1, shutting_down: 5, source_unavailable: 30 };

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: ErrorCode;
  };
}

export const retryAfterS = (code: ErrorCode): number | undefined => RETRY_AFTER[code];

/**
 * OpenAI's error body.
 *
 * Only our own sentences leave the server: anything else that was thrown, and a bug in this program, may
 * carry paths or addresses in its message.
 */
export function errorBody(thrown: unknown): ErrorBody {
  const error = toLorikeetError(thrown);
  const { errorCode: code, field } = error;
  return {
    error: { message: publicMessage(error), type: typeOf(STATUS[code]), param: field ?? null, code },
  };
}

export function errorResponse(thrown: unknown, headers: Readonly<Record<string, string>> = {}): Response {
  const { errorCode: code, details } = toLorikeetError(thrown);
  const known = details["retryAfterS"];
  const retryAfter = typeof known === "number" ? known : retryAfterS(code);
  return Response.json(errorBody(thrown), {
    status: STATUS[code],
    headers: {
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
      ...(code === "unauthorized" ? { "www-authenticate": "Bearer" } : {}),
      ...headers,
    },
  });
}

function publicMessage(error: LorikeetError): string {
  switch (error.errorCode) {
    case "invariant_violated":
      return "an internal error occurred; the server's log has the details";
    case "backend_failed":
    case "backend_unavailable":
      return "the model's backend stopped working; the server's log has the details";
    default:
      return error.message;
  }
}

function typeOf(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  if (status === 404) return "not_found_error";
  if (status === 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

/** For a field of a request body: the one kind of sentence that clients see for their own mistakes. */
export const badField = (field: string, problem: string): RequestError =>
  new RequestError("invalid_request", `${field} ${problem}`, { field });
