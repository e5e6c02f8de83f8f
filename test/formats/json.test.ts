import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { FormatError } from "../../src/formats/format-error.ts";
import { parseJson, parseJsonObject } from "../../src/formats/json.ts";
import { thrownBy } from "../helpers/thrown.ts";

const LIMITS = { maxBytes: 10_000, maxDepth: 8 };
const parse = (text: string): unknown => parseJson(new TextEncoder().encode(text), LIMITS);

describe("parseJson", () => {
  test.each([
    ["null", null],
    [" true\n", true],
    ["-0.5e2", -50],
    ['"a\\u0041\\n\\ud83d\\ude00"', "aA\n😀"],
    ["[]", []],
    ["[1, [2], {}]", [1, [2], {}]],
    ['{"a": {"b": "\\\\"}, "c": false}', { a: { b: "\\" }, c: false }],
  ])("reads %s", (text, value) => {
    expect(JSON.stringify(parse(text))).toBe(JSON.stringify(value));
  });

  test("gives what JSON.parse gives, for any value and spacing", () => {
    fc.assert(
      fc.property(
        fc.jsonValue({ maxDepth: 5 }),
        fc.constantFrom(undefined, 2, "\t\r\n"),
        (value, space) => {
          const text = JSON.stringify(value, null, space);
          fc.pre(text.isWellFormed());
          const json = fc.stringify(JSON.parse(text) as unknown);
          expect(fc.stringify(JSON.parse(JSON.stringify(parse(text))) as unknown)).toBe(json);
        },
      ),
    );
  });

  test("accepts no text that JSON.parse refuses, and throws nothing but FormatError", () => {
    const piece = fc.constantFrom(
      ...Array.from('{}[]:,"\\ue0019.-+ \n\t'),
      "true",
      "null",
      '"a"',
      "\u0001",
      "1e999",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
        const text = pieces.join("");
        let value: unknown;
        try {
          value = parse(text);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(FormatError);
          return;
        }
        expect(JSON.stringify(value)).toBe(JSON.stringify(JSON.parse(text)));
      }),
      { numRuns: 5000 },
    );
  });

  test("keeps __proto__ and constructor as plain keys of an object without prototype", () => {
    const value = parse('{"__proto__": {"polluted": 1}, "constructor": 2}') as Record<
      string,
      unknown
    >;
    expect(Object.getPrototypeOf(value)).toBeNull();
    expect(Object.keys(value)).toEqual(["__proto__", "constructor"]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  test("reads bytes in shared memory", () => {
    const bytes = new Uint8Array(new SharedArrayBuffer(4));
    bytes.set(new TextEncoder().encode("[12]"));
    expect(parseJson(bytes, LIMITS)).toEqual([12]);
  });

  test.each([
    ["", "the JSON text must have a value at line 1, column 1"],
    ["[1,\n 2", "the JSON text must have a comma or ] at line 2, column 3"],
    ["[1,]", "must have a value at line 1, column 4"],
    ["{1: 2}", "must have a key in double quotes at line 1, column 2"],
    ['{"a" 1}', "must have a colon at line 1, column 6"],
    ['{"a": 1 "b"}', "must have a comma or } at line 1, column 9"],
    ['{"a": 1, "b": 2, "a": 3}', 'the key "a" appears twice in one object (line 1, column 18)'],
    ['{"a": 1, "\\u0061": 3}', 'the key "a" appears twice'],
    ["01", "must have the end of the text at line 1, column 2"],
    ["1 2", "must have the end of the text at line 1, column 3"],
    ["tru", "must have a value at line 1, column 1"],
    ["NaN", "must have a value at line 1, column 1"],
    ["1e999", "must have a number within float64"],
    ['"a', "must have a closed string without control characters"],
    ['"a\\', "must have a closed string without control characters"],
    ['"a\tb"', "must have a closed string without control characters"],
    ['"\\x41"', "must have a string without unknown escapes"],
    ['"\\ud800"', "must have a string without lone surrogates"],
    ["\ufeff1", "must have a value at line 1, column 1"],
    ["[".repeat(9), "nests deeper than the 8 levels allowed (line 1, column 9)"],
    [`"${"a".repeat(10_000)}"`, "has 10002 bytes, more than the 10000 allowed"],
  ])("refuses %j", (text, message) => {
    const thrown = thrownBy(() => parse(text));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("refuses broken UTF-8", () => {
    expect(() => parseJson(Uint8Array.of(0x22, 0xff, 0x22), LIMITS)).toThrow("not valid UTF-8");
  });

  test("stops at the depth limit before a deep text can exhaust the stack", () => {
    const deep = new TextEncoder().encode("[".repeat(1_000_000));
    expect(() => parseJson(deep, { maxBytes: 2_000_000, maxDepth: 64 })).toThrow("64 levels");
  });

  test("names what stands where an object was asked for", () => {
    expect(() => parseJsonObject(new TextEncoder().encode("[]"), LIMITS)).toThrow(
      "must be an object, got an array",
    );
  });
});
