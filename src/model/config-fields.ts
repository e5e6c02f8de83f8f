/** Typed reading of one JSON object of a model file; every complaint names file, field, value and limit. */
import { ModelError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import {
  isJsonObject,
  type JsonArray,
  type JsonObject,
  type JsonValue,
  nameJsonType,
} from "../formats/json.ts";

export interface Range {
  readonly min: number;
  readonly max: number;
}

export class ConfigFields {
  readonly file: string;
  readonly #object: JsonObject;
  readonly #path: string;

  /** @param path what stands before a field's name in messages, such as `rope_scaling.` */
  constructor(file: string, object: JsonObject, path = "") {
    this.file = file;
    this.#object = object;
    this.#path = path;
  }

  get isEmpty(): boolean {
    return Object.keys(this.#object).length === 0;
  }

  /** The raw value; `undefined` for a field that is absent or null, which model files use alike. */
  value(name: string): JsonValue | undefined {
    return this.#object[name] ?? undefined;
  }

  has(name: string): boolean {
    return this.value(name) !== undefined;
  }

  /** False also for null: the few fields where null means something else than absent ask this. */
  isAbsent(name: string): boolean {
    return this.#object[name] === undefined;
  }

  integer(name: string, range: Range, fallback?: number): number {
    const value = this.value(name) ?? fallback;
    if (typeof value === "number" && Number.isInteger(value) && inside(value, range)) return value;
    return this.invalid(name, `a whole number from ${range.min} to ${range.max}`);
  }

  number(name: string, range: Range, fallback?: number): number {
    const value = this.value(name) ?? fallback;
    if (typeof value === "number" && inside(value, range)) return value;
    return this.invalid(name, `a number from ${range.min} to ${range.max}`);
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.value(name) ?? fallback;
    return typeof value === "boolean" ? value : this.invalid(name, "true or false");
  }

  string(name: string): string | undefined {
    const value = this.value(name);
    if (value === undefined || typeof value === "string") return value;
    return this.invalid(name, "a string");
  }

  array(name: string): JsonArray | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    return Array.isArray(value) ? (value as JsonArray) : this.invalid(name, "an array");
  }

  object(name: string): ConfigFields | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    if (isJsonObject(value)) return new ConfigFields(this.file, value, `${this.#path}${name}.`);
    return this.invalid(name, "an object");
  }

  /** Throws `model_invalid`: the value breaks the field's own rule. */
  invalid(name: string, expected: string): never {
    throw new ModelError(
      "model_invalid",
      `${this.#path}${name} in ${this.file} must be ${expected}, got ${showValue(this.value(name))}`,
      { field: this.#path + name },
    );
  }

  /** Throws `model_unsupported`: the value may well be right, but not for this program. */
  unsupported(name: string, supported: string): never {
    throw new ModelError(
      "model_unsupported",
      `${this.#path}${name} in ${this.file} is ${showValue(this.value(name))}; supported: ${supported}`,
      { field: this.#path + name },
    );
  }
}

function inside(value: number, { min, max }: Range): boolean {
  return value >= min && value <= max;
}

function showValue(value: JsonValue | undefined): string {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return nameJsonType(value);
}
