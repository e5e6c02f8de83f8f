/**
 * The five kinds of failure, and the stable codes that name each one.
 *
 * The kind says who must act; the code is public and never changes meaning; the message is one
 * sentence for a person, with the field, the value, the limit and what to do. `details` is for logs
 * and never holds prompts or tokens.
 */

export type ErrorCode =
  // RequestError
  | "invalid_request"
  | "context_length_exceeded"
  | "model_not_found"
  | "unauthorized"
  | "forbidden_path"
  | "admin_only"
  | "payload_too_large"
  | "misdirected_request"
  | "route_not_found"
  | "method_not_allowed"
  | "unsupported_media_type"
  // AdapterError
  | "adapter_not_found"
  | "adapter_exists"
  | "adapter_invalid"
  | "adapter_unsupported"
  | "adapter_too_large"
  // ModelError
  | "model_invalid"
  | "model_unsupported"
  // ConfigError
  | "config_invalid"
  | "source_refused"
  // CapacityError
  | "queue_full"
  | "rate_limit_exceeded"
  | "shutting_down"
  | "source_unavailable"
  | "request_timeout"
  // NativeError
  | "backend_unavailable"
  | "backend_failed"
  | "non_finite_logits"
  // InvariantError
  | "invariant_violated";

/** Numbers and names that belong to a failure, for logs. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

export interface ErrorOptions {
  /** The request or configuration field at fault, in the spelling the caller used. */
  readonly field?: string;
  readonly details?: ErrorDetails;
  readonly cause?: unknown;
}

/** What everything that goes wrong here is an instance of; its class says who must act, `errorCode` what it is. */
export abstract class LorikeetError extends Error {
  /** What it is, once and for all. Not `code`, which Elysia takes over. */
  readonly errorCode: ErrorCode;
  /** The request or configuration field at fault, in the spelling the caller used. */
  readonly field: string | undefined;
  /** For logs; never prompts or tokens. */
  readonly details: ErrorDetails;

  /** @hidden */
  constructor(errorCode: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.errorCode = errorCode;
    this.field = options.field;
    this.details = options.details ?? {};
  }
}

/** The client asked for something impossible. Not retried. */
export class RequestError extends LorikeetError {}

/** An adapter is missing, malformed or not supported. Not retried until it changes. */
export class AdapterError extends LorikeetError {}

/** The base model's files are missing, malformed or not supported. The server does not start. */
export class ModelError extends LorikeetError {}

/** A flag, a YAML key or a constructor option is wrong. The server does not start. */
export class ConfigError extends LorikeetError {}

/** No room now: queue, pages or slots. The client may retry. */
export class CapacityError extends LorikeetError {}

/** A CUDA or WASM call failed. The device may be lost. */
export class NativeError extends LorikeetError {}

/** A bug in this program. */
export class InvariantError extends LorikeetError {
  /** @hidden */
  constructor(message: string, options: ErrorOptions = {}) {
    super("invariant_violated", message, options);
  }
}

/** Asserts what the edges have already made true. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InvariantError(message);
}

/** Narrows anything that was thrown to a LorikeetError, keeping the original as the cause. */
export function toLorikeetError(thrown: unknown): LorikeetError {
  if (thrown instanceof LorikeetError) return thrown;
  return new InvariantError("an internal error occurred", { cause: thrown });
}
