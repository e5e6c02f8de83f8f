/** A request's body to a JSON object, under limits, with nothing coerced. */
import { RequestError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { type JsonObject, parseJsonObject } from "../formats/json.ts";

export interface BodyLimits {
  readonly maxBytes: number;
  /** Deepest nesting of objects and arrays. */
  readonly maxDepth: number;
  /** Longest wait for the next part of the body. */
  readonly stallMs: number;
}

export const defaultBodyLimits: BodyLimits = {
  maxBytes: 2 * 1024 * 1024,
  maxDepth: 32,
  stallMs: 15_000,
};

/**
 * @throws {RequestError} `unsupported_media_type`, `payload_too_large`, `request_timeout` as `invalid_request`,
 *   `invalid_request` for anything but one UTF-8 JSON object
 */
export async function readJsonBody(request: Request, limits: BodyLimits = defaultBodyLimits): Promise<JsonObject> {
  checkHeaders(request.headers, limits);
  const bytes = await readBytes(request, limits);
  if (bytes.length === 0) throw new RequestError("invalid_request", "the body is empty; send a JSON object");
  try {
    return parseJsonObject(bytes, limits);
  } catch (thrown) {
    if (!(thrown instanceof FormatError)) throw thrown;
    throw new RequestError("invalid_request", `the body is not usable: ${thrown.message}`, { cause: thrown });
  }
}

function checkHeaders(headers: Headers, { maxBytes }: BodyLimits): void {
  const type = headers.get("content-type") ?? "";
  const [essence = "", ...parameters] = type.toLowerCase().split(";").map((part) => part.trim());
  const charsets = parameters.filter((part) => part.startsWith("charset="));
  const isUtf8 = charsets.every((part) => /^charset="?utf-?8"?$/.test(part));
  if (essence !== "application/json" || !isUtf8) {
    throw new RequestError("unsupported_media_type", "the content-type must be application/json in UTF-8");
  }
  const encoding = headers.get("content-encoding");
  if (encoding !== null && encoding.trim().toLowerCase() !== "identity") {
    throw new RequestError("unsupported_media_type", "the body must be sent without a content-encoding");
  }
  if (Number(headers.get("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes);
}

async function readBytes(request: Request, { maxBytes, stallMs }: BodyLimits): Promise<Uint8Array> {
  if (request.body === null) return new Uint8Array();
  const reader = request.body.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  const parts: Uint8Array[] = [];
  let numBytes = 0;
  try {
    for (;;) {
      const { done, value } = await withDeadline(reader.read(), stallMs);
      if (done) break;
      numBytes += value.length;
      if (numBytes > maxBytes) throw tooLarge(maxBytes);
      parts.push(value);
    }
  } catch (thrown) {
    void reader.cancel().catch(() => undefined);
    throw thrown;
  }
  return parts.length === 1 ? parts[0]! : joined(parts, numBytes);
}

function withDeadline<T>(promise: Promise<T>, ms: number): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new RequestError("invalid_request", `the body stopped arriving for ${ms / 1000} seconds`));
  }, ms);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function joined(parts: readonly Uint8Array[], numBytes: number): Uint8Array {
  const whole = new Uint8Array(numBytes);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const tooLarge = (maxBytes: number): RequestError =>
  new RequestError("payload_too_large", `the body must have at most ${maxBytes} bytes`);
