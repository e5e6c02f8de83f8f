/** Reads the fields of a JSON object one by one. Nothing is coerced; `null` counts as left out. */
import { didYouMean } from "../../core/nearest.ts";
import { type JsonArray, type JsonObject, type JsonValue, isJsonObject, nameJsonType } from "../../formats/json.ts";
import { badField } from "../error-response.ts";

export class Fields {
  readonly #record: JsonObject;
  readonly #path: string;

  /** @param path how the object itself is called in messages, ending in a dot; empty for the body */
  constructor(record: JsonObject, path = "") {
    this.#record = record;
    this.#path = path;
  }

  nameOf(name: string): string {
    return `${this.#path}${name}`;
  }

  raw(name: string): JsonValue | undefined {
    return this.#record[name] ?? undefined;
  }

  string(name: string): string | undefined {
    const value = this.raw(name);
    if (value === undefined || typeof value === "string") return value;
    return this.#refuse(name, `must be a string, got ${nameJsonType(value)}`);
  }

  boolean(name: string): boolean | undefined {
    const value = this.raw(name);
    if (value === undefined || typeof value === "boolean") return value;
    return this.#refuse(name, `must be true or false, got ${shown(value)}`);
  }

  integer(name: string, min: number, max: number): number | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    return this.#refuse(name, `must be a whole number ${range}, got ${shown(value)}`);
  }

  array(name: string): JsonArray | undefined {
    const value = this.raw(name);
    if (value === undefined || isArray(value)) return value;
    return this.#refuse(name, `must be a list, got ${nameJsonType(value)}`);
  }

  object(name: string): Fields | undefined {
    const value = this.raw(name);
    if (value === undefined) return undefined;
    if (isJsonObject(value)) return new Fields(value, `${this.nameOf(name)}.`);
    return this.#refuse(name, `must be an object, got ${nameJsonType(value)}`);
  }

  required<T>(name: string, value: T | undefined): T {
    return value ?? this.#refuse(name, "is missing");
  }

  /** @throws {RequestError} for the first field that is not in `known`, with the nearest one that is */
  refuseUnknown(known: readonly string[]): void {
    for (const name of Object.keys(this.#record)) {
      if (known.includes(name)) continue;
      const written = name.length > 64 ? `${name.slice(0, 64)}...` : name;
      this.#refuse(written, `is not a field of this request${didYouMean(name, known)}`);
    }
  }

  #refuse(name: string, problem: string): never {
    throw badField(this.nameOf(name), problem);
  }
}

export const isArray = (value: JsonValue): value is JsonArray => Array.isArray(value);

/** A value as it may stand in a message. */
export function shown(value: JsonValue | undefined): string {
  if (typeof value !== "object" || value === null) {
    const text = JSON.stringify(value) ?? "nothing";
    return text.length <= 60 ? text : `${text.slice(0, 60)}...`;
  }
  return nameJsonType(value);
}
