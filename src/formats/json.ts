/**
 * JSON for files that nobody vouches for.
 *
 * `JSON.parse` keeps the last of two equal keys, takes any depth, and leaves bad UTF-8 to whoever decoded
 * it; here each of them is an error. Objects have no prototype, so a key `__proto__` is a key like any other.
 */
import { FormatError, quoted } from "./format-error.ts";

export type JsonValue = null | boolean | number | string | JsonArray | JsonObject;
export type JsonArray = readonly JsonValue[];
export interface JsonObject {
  readonly [key: string]: JsonValue | undefined;
}

export interface JsonLimits {
  readonly maxBytes: number;
  /** Deepest nesting of objects and arrays; 0 allows scalars only. */
  readonly maxDepth: number;
}

/**
 * Parses one JSON text.
 *
 * @throws {FormatError} for text over a limit, broken UTF-8, a byte-order mark, a lone surrogate, a duplicate
 *   key, a number beyond float64, or anything that RFC 8259 does not allow
 */
export function parseJson(bytes: Uint8Array, limits: JsonLimits): JsonValue {
  if (bytes.length > limits.maxBytes) {
    throw new FormatError(
      `the JSON text has ${bytes.length} bytes, more than the ${limits.maxBytes} allowed`,
    );
  }
  return new JsonReader(decodeUtf8(bytes), limits.maxDepth).read();
}

/** `parseJson` for a text that must be an object. */
export function parseJsonObject(bytes: Uint8Array, limits: JsonLimits): JsonObject {
  const value = parseJson(bytes, limits);
  if (!isJsonObject(value))
    throw new FormatError(`the JSON text must be an object, got ${nameJsonType(value)}`);
  return value;
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What a value is, with its article, for messages. */
export function nameJsonType(value: JsonValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function decodeUtf8(bytes: Uint8Array): string {
  // TextDecoder refuses views of shared memory, and keeps a byte-order mark only when told to ignore it.
  const own = bytes.buffer instanceof SharedArrayBuffer ? bytes.slice() : bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(own);
  } catch (cause) {
    throw new FormatError("the JSON text is not valid UTF-8", { cause });
  }
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

class JsonReader {
  readonly #text: string;
  readonly #maxDepth: number;
  #at = 0;

  constructor(text: string, maxDepth: number) {
    this.#text = text;
    this.#maxDepth = maxDepth;
  }

  read(): JsonValue {
    this.#skipSpace();
    const value = this.#value(0);
    this.#skipSpace();
    if (this.#at < this.#text.length) this.#fail("the end of the text");
    return value;
  }

  #value(depth: number): JsonValue {
    const char = this.#text[this.#at];
    if (char === "{") return this.#object(depth + 1);
    if (char === "[") return this.#array(depth + 1);
    if (char === '"') return this.#string();
    if (char === "t") return this.#word("true", true);
    if (char === "f") return this.#word("false", false);
    if (char === "n") return this.#word("null", null);
    return this.#number();
  }

  #object(depth: number): JsonObject {
    this.#enter(depth);
    const object: Record<string, JsonValue> = Object.create(null);
    if (this.#takes("}")) return object;
    for (;;) {
      if (this.#text[this.#at] !== '"') this.#fail("a key in double quotes");
      const keyAt = this.#at;
      const key = this.#string();
      if (Object.hasOwn(object, key)) {
        throw new FormatError(
          `the key ${quoted(key)} appears twice in one object (${this.#place(keyAt)})`,
        );
      }
      this.#skipSpace();
      if (!this.#takes(":")) this.#fail("a colon");
      object[key] = this.#value(depth);
      this.#skipSpace();
      if (this.#takes("}")) return object;
      if (!this.#takes(",")) this.#fail("a comma or }");
    }
  }

  #array(depth: number): JsonArray {
    this.#enter(depth);
    const array: JsonValue[] = [];
    if (this.#takes("]")) return array;
    for (;;) {
      array.push(this.#value(depth));
      this.#skipSpace();
      if (this.#takes("]")) return array;
      if (!this.#takes(",")) this.#fail("a comma or ]");
    }
  }

  #enter(depth: number): void {
    if (depth > this.#maxDepth) {
      throw new FormatError(
        `the JSON text nests deeper than the ${this.#maxDepth} levels allowed (${this.#place(this.#at)})`,
      );
    }
    this.#at++;
    this.#skipSpace();
  }

  #string(): string {
    const from = this.#at;
    let at = from + 1;
    let hasEscape = false;
    for (; ; at++) {
      const code = this.#text.charCodeAt(at);
      if (code === QUOTE) break;
      if (code === BACKSLASH) {
        hasEscape = true;
        at++;
      } else if (Number.isNaN(code) || code < 0x20) {
        this.#fail("a closed string without control characters");
      }
    }
    this.#at = at + 1;
    const text = hasEscape ? this.#unescape(from, at + 1) : this.#text.slice(from + 1, at);
    if (text.isWellFormed()) return text;
    this.#at = from;
    return this.#fail("a string without lone surrogates");
  }

  #unescape(from: number, to: number): string {
    try {
      return JSON.parse(this.#text.slice(from, to)) as string;
    } catch {
      this.#at = from;
      return this.#fail("a string without unknown escapes");
    }
  }

  #number(): number {
    const literal = this.#match(NUMBER);
    if (literal === undefined) this.#fail("a value");
    const value = Number(literal);
    if (!Number.isFinite(value)) this.#fail("a number within float64");
    return value;
  }

  #word<T extends JsonValue>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) this.#fail("a value");
    this.#at += word.length;
    return value;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Steps over `char` and the space behind it. */
  #takes(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    if (char !== "}" && char !== "]") this.#skipSpace();
    return true;
  }

  #skipSpace(): void {
    for (; this.#at < this.#text.length; this.#at++) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    }
  }

  #fail(expected: string): never {
    throw new FormatError(`the JSON text must have ${expected} at ${this.#place(this.#at)}`);
  }

  #place(at: number): string {
    const before = this.#text.slice(0, at);
    return `line ${before.split("\n").length}, column ${at - before.lastIndexOf("\n")}`;
  }
}
