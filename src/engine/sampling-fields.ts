/** Checks of single fields, all with the same kind of sentence. */
import { RequestError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";

/** `field must be limit, got value`, e.g. `topP must be a number from 0 to 1, got 1.5`. */
export const refuse = (field: string, limit: string, value: unknown): RequestError =>
  new RequestError("invalid_request", `${field} must be ${limit}, got ${shown(value)}`, { field });

function shown(value: unknown): string {
  if (typeof value === "string") return value.length <= 40 ? JSON.stringify(value) : `${JSON.stringify(value.slice(0, 40))}...`;
  if (typeof value !== "object" || value === null) return String(value);
  return Array.isArray(value) ? "a list" : "an object";
}

/** `null` when left out; nothing is coerced. */
export function numberField(
  value: unknown,
  field: string,
  min: number,
  max: number,
): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isFinite(value) || value < min || value > max) {
    throw refuse(field, `a number from ${min} to ${max}`, value);
  }
  return value;
}

export function integerField(
  value: unknown,
  field: string,
  min: number,
  max: number,
): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    throw refuse(field, `a whole number ${range}`, value);
  }
  return value;
}

export function booleanField(value: unknown, field: string, fallback: boolean): boolean {
  if (value === undefined || value === null) return fallback;
  if (typeof value !== "boolean") throw refuse(field, "true or false", value);
  return value;
}

/** @throws {RequestError} `invalid_request` naming the field and the nearest known one */
export function refuseUnknownFields(record: unknown, known: readonly string[]): void {
  if (typeof record !== "object" || record === null || Array.isArray(record)) {
    throw new RequestError("invalid_request", "sampling parameters must be an object of fields");
  }
  for (const field of Object.keys(record)) {
    if (known.includes(field)) continue;
    const name = field.slice(0, 40);
    throw new RequestError("invalid_request", `${name} is not a sampling parameter${didYouMean(field, known)}`, { field: name });
  }
}
