import { describe, expect, test } from "bun:test";
import { FormatError } from "../../src/formats/format-error.ts";
import { parseZip, unpackEntry, ZIP_LIMITS } from "../../src/formats/zip.ts";
import { encodeZip, localPart, type ZipChange, type ZipMember } from "../helpers/archives.ts";
import { thrownBy } from "../helpers/thrown.ts";

const A = Uint8Array.of(1, 2, 3, 4, 5);
const B = new Uint8Array(3000).fill(7);
const read = (bytes: Uint8Array): Record<string, Uint8Array> =>
  Object.fromEntries([...parseZip(bytes)].map(([name, entry]) => [name, unpackEntry(entry)]));

describe("parseZip", () => {
  test.each<[string, Partial<ZipMember>, ZipChange]>([
    ["stored, sizes in front", {}, {}],
    ["stored, sizes behind, as torch writes", { descriptor: true }, { zip64: true }],
    ["deflated", { deflate: true }, {}],
    ["deflated, sizes behind", { deflate: true, descriptor: true }, { zip64: true }],
  ])("reads entries that are %s", (_, how, change) => {
    const random = crypto.getRandomValues(new Uint8Array(3000));
    expect(read(encodeZip([{ name: "x/a", bytes: A, ...how }, { name: "x/b", bytes: random, ...how }, { name: "x/empty", bytes: new Uint8Array(0), ...how }], change))).toEqual({
      "x/a": A, "x/b": random, "x/empty": new Uint8Array(0),
    });
  });

  test("gives stored entries as views, and an archive of nothing", () => {
    const bytes = encodeZip([{ name: "a", bytes: A }]);
    expect(read(bytes)["a"]!.buffer).toBe(bytes.buffer);
    expect(parseZip(encodeZip([])).size).toBe(0);
  });

  const one = (change: Partial<ZipMember>): Uint8Array => encodeZip([{ name: "a", bytes: A, ...change }]);
  const good = one({});
  const bad: readonly (readonly [string, Uint8Array, string])[] = [
    ["an empty file", new Uint8Array(0), "must end with its end record"],
    ["a cut file", good.subarray(0, -1), "must end with its end record"],
    ["bytes after the end", Buffer.concat([good, A]), "must end with its end record"],
    ["a comment, which could hold an archive", encodeZip([], { comment: "hello" }), "without a comment"],
    ["more entries than the directory has", encodeZip([{ name: "a", bytes: A }], { numEntries: 2 }), "does not end at its end record"],
    ["fewer entries than the directory has", encodeZip([{ name: "a", bytes: A }, { name: "b", bytes: A }], { numEntries: 1 }), "after its last entry"],
    ["a hole before the directory", encodeZip([{ name: "a", bytes: A }], { gap: 4 }), "4 bytes between its last entry"],
    ["two entries of one name", encodeZip([{ name: "a", bytes: A }, { name: "a", bytes: B }]), "two entries named"],
    ["two entries in one place", encodeZip([{ name: "a", bytes: A }, { name: "b", bytes: A, start: 0 }]), "overlaps the entry before it"],
    ["an entry inside another", encodeZip([{ name: "a", bytes: localPart({ name: "b", bytes: B }) }, { name: "b", bytes: B, isHidden: true, start: 31 }]), "overlaps the entry before it"],
    ["an entry that starts later", one({ start: 3 }), "leaves a hole before it"],
    ["another name in front of the bytes", one({ localName: "b" }), "is not what the archive's directory says"],
    ["an encrypted entry", one({ flags: 1 }), "encrypted"],
    ["another compression", one({ method: 12 }), "compression method 12"],
    ["a stored entry of another size", one({ numBytes: 6 }), "is stored in 5 bytes, but says it has 6"],
    ["a bomb", encodeZip([{ name: "a", bytes: new Uint8Array(100_000), deflate: true }]), "more than 20 times"],
    ["..", one({ name: "../a" }), "plain relative paths"],
    ["an absolute path", one({ name: "/a" }), "plain relative paths"],
    ["a directory", one({ name: "a/" }), "plain relative paths"],
    ["a backslash", one({ name: "a\\b" }), "plain relative paths"],
    ["a drive", one({ name: "C:a" }), "plain relative paths"],
    ["a NUL in a name", one({ name: "a\0" }), "plain relative paths"],
    ["a long name", one({ name: "a".repeat(513) }), "a member name of 513 bytes"],
  ];

  test.each(bad)("refuses %s", (_, bytes, message) => {
    const thrown = thrownBy(() => parseZip(bytes));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("refuses what is over a limit before it is unpacked", () => {
    const bytes = encodeZip([{ name: "a", bytes: B }, { name: "b", bytes: B }]);
    expect(() => parseZip(bytes, { ...ZIP_LIMITS, maxEntries: 1 })).toThrow("2 entries, more than the 1 allowed");
    expect(() => parseZip(bytes, { ...ZIP_LIMITS, maxTotalBytes: 5999 })).toThrow("more than the 5999 bytes allowed");
  });

  test("refuses entries whose bytes are not what the directory says", () => {
    expect(() => read(one({ crc: 1 }))).toThrow("its checksum is wrong");
    const packed = { name: "a", bytes: Uint8Array.from({ length: 200 }, (_, i) => i), deflate: true };
    expect(() => read(encodeZip([{ ...packed, numBytes: 100 }]))).toThrow("cannot be unpacked to the 100 bytes");
    expect(() => read(encodeZip([{ ...packed, numBytes: 300 }]))).toThrow("unpacks to 200 bytes, but its directory says 300");
    expect(() => read(one({ method: 8, numBytes: 20 }))).toThrow("cannot be unpacked");
  });

  test("refuses an archive cut or changed anywhere, or reads the same names", () => {
    const whole = encodeZip([{ name: "x/a", bytes: A, descriptor: true }, { name: "x/b", bytes: B, descriptor: true }], { zip64: true });
    for (let at = 0; at < whole.length; at++) {
      expect(thrownBy(() => parseZip(whole.subarray(0, at)))).toBeInstanceOf(FormatError);
      const changed = whole.slice();
      changed[at]! ^= 0x41;
      try {
        expect(Object.values(read(changed))).toEqual([A, B]);
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(FormatError);
      }
    }
  });
});
