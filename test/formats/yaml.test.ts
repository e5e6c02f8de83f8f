import { describe, expect, test } from "bun:test";
import { FormatError } from "../../src/formats/format-error.ts";
import { parseYaml } from "../../src/formats/yaml.ts";
import { thrownBy } from "../helpers/thrown.ts";

const LIMITS = { maxBytes: 1000, maxDepth: 4 };
const read = (text: string) => parseYaml(new TextEncoder().encode(text), LIMITS);

describe("parseYaml", () => {
  test("reads maps, lists and scalars, in both styles", () => {
    expect(read("a: 1\nb:\n- x\n- 'y: z'\nc: {d: null, e: [1.5, true]}\nf: ~\n")).toEqual({
      a: 1, b: ["x", "y: z"], c: { d: null, e: [1.5, true] }, f: null,
    });
  });

  test.each([
    ["text over the limit", "a".repeat(1001), "more than the 1000 allowed"],
    ["nothing", "", "is empty"],
    ["an anchor with an alias", "a: &x [1]\nb: *x\n", "anchors or aliases"],
    ["an anchor alone", "a: &x {b: 1}\n", "anchors or aliases"],
    ["an anchored scalar", "a: &x 1\n", "anchors or aliases"],
    ["a tag of a program", "a: !!python/object/apply:os.system [id]\n", "cannot be read at character 3"],
    ["a key twice", "a: 1\na: 2\n", "cannot be read at character"],
    ["broken text", "a: [1\n", "cannot be read at character"],
    ["brackets without end", "[".repeat(500), "nests deeper than the 4 levels"],
    ["dashes without end", "- ".repeat(400), "nests deeper than the 4 levels"],
    ["indentation that goes deep", "a:\n b:\n  c:\n   d:\n    e: 1\n", "nests deeper than the 4 levels"],
  ])("refuses %s", (_, text, message) => {
    const thrown = thrownBy(() => read(text));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("refuses bytes that are not UTF-8", () => {
    expect(() => parseYaml(Uint8Array.of(0x61, 0xff), LIMITS)).toThrow("not valid UTF-8");
  });
});
