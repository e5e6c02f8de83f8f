/** Checks of single fields, all with the same kind of sentence. */
import { RequestError } from "../core/errors.ts";

/** `field value problem`, e.g. "topP 1.5 must be between 0 and 1". */
export const refuse = (field: string, value: unknown, problem: string): RequestError =>
  new RequestError("invalid_request", `${field} ${shown(value)} ${problem}`, { field });

function shown(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean") {
    return String(value);
  }
  if (typeof value === "string") return value.length <= 40 ? value : `${value.slice(0, 40)}…`;
  if (value === undefined) return "undefined";
  return value === null ? "null" : Array.isArray(value) ? "(a list)" : `(a ${typeof value})`;
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
    throw refuse(field, value, `must be a number between ${min} and ${max}`);
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
    throw refuse(field, value, `must be a whole number ${range}`);
  }
  return value;
}

export function booleanField(value: unknown, field: string, fallback: boolean): boolean {
  if (value === undefined || value === null) return fallback;
  if (typeof value !== "boolean") throw refuse(field, value, "must be true or false");
  return value;
}

/** @throws {RequestError} `invalid_request` naming the field and the nearest known one */
export function refuseUnknownFields(record: unknown, known: readonly string[]): void {
  if (typeof record !== "object" || record === null || Array.isArray(record)) {
    throw new RequestError("invalid_request", "sampling parameters must be an object of fields");
  }
  for (const field of Object.keys(record)) {
    if (known.includes(field)) continue;
    const nearest = nearestName(field, known);
    throw new RequestError(
      "invalid_request",
      `${shown(field)} is not a sampling parameter; did you mean ${nearest}?`,
      { field: shown(field) },
    );
  }
}

function nearestName(name: string, known: readonly string[]): string {
  const plain = (text: string) =>
    text
      .slice(0, 64)
      .toLowerCase()
      .replaceAll(/[^a-z]/g, "");
  let best = known[0]!;
  let bestDistance = Infinity;
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + change));
    }
    row = next;
  }
  return row[b.length]!;
}
