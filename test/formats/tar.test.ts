import { describe, expect, test } from "bun:test";
import { gzipSync } from "node:zlib";
import { FormatError } from "../../src/formats/format-error.ts";
import { parseTar, TAR_LIMITS } from "../../src/formats/tar.ts";
import { encodeTar, paxRecord, type TarMember } from "../helpers/archives.ts";
import { thrownBy } from "../helpers/thrown.ts";

const A = Uint8Array.of(1, 2, 3);
const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const read = (bytes: Uint8Array): Record<string, Uint8Array> => Object.fromEntries(parseTar(bytes));
const long = `${"d".repeat(90)}/${"e".repeat(90)}`;

describe("parseTar", () => {
  test.each<[string, TarMember[], Record<string, Uint8Array>]>([
    ["files", [{ name: "a", bytes: A }, { name: "b/c" }], { a: A, "b/c": new Uint8Array(0) }],
    ["names after ./, and the directory itself", [{ name: "./", type: "5" }, { name: "./a", bytes: A }, { name: "./b/", type: "5" }], { a: A }],
    ["a ustar prefix", [{ name: "c", prefix: "a/b", bytes: A }], { "a/b/c": A }],
    ["GNU long names", [{ name: "././@LongLink", type: "L", bytes: text(`${long}\0`) }, { name: long.slice(0, 99), bytes: A }], { [long]: A }],
    ["a pax path", [{ name: "x", type: "x", bytes: new Uint8Array(Buffer.concat([paxRecord("mtime", "1.5"), paxRecord("path", `./${long}`)])) }, { name: "short", bytes: A }], { [long]: A }],
    ["pax times", [{ name: "g", type: "g", bytes: paxRecord("comment", "hello") }, { name: "x", type: "x", bytes: paxRecord("mtime", "1720000000.123") }, { name: "a", bytes: A }], { a: A }],
    ["old archives' type", [{ name: "a", type: "\0", bytes: A }], { a: A }],
    ["nothing", [], {}],
  ])("reads %s, plain and gzip", (_, members, content) => {
    const tar = encodeTar(members);
    expect(read(tar)).toEqual(content);
    expect(read(new Uint8Array(gzipSync(tar)))).toEqual(content);
  });

  test("gives members as views of the file", () => {
    const tar = encodeTar([{ name: "a", bytes: A }]);
    expect(parseTar(tar).get("a")!.buffer).toBe(tar.buffer);
  });

  const one = (change: Partial<TarMember>): Uint8Array => encodeTar([{ name: "a", bytes: A, ...change }]);
  const pax = (...records: Uint8Array[]): Uint8Array => encodeTar([{ name: "x", type: "x", bytes: new Uint8Array(Buffer.concat(records)) }, { name: "a", bytes: A }]);
  const bad: readonly (readonly [string, Uint8Array, string])[] = [
    ["an empty file", new Uint8Array(0), "it is truncated"],
    ["no end marker", encodeTar([{ name: "a", bytes: A }], 0), "it is truncated"],
    ["bytes after the end marker", new Uint8Array(Buffer.concat([one({}), new Uint8Array(511), A])), "goes on after its end marker"],
    ["a member longer than the file", one({ size: "00077777777\0" }), "but only"],
    ["a base-256 size", one({ size: "\x80\0\0\0\0\0\0\0\0\0\0\x03" }), "not an octal number"],
    ["a size of letters", one({ size: "abc" }), "not an octal number"],
    ["a wrong checksum", one({ checksum: "000000\0 " }), "checksum is wrong"],
    ["two members of one name", encodeTar([{ name: "a", bytes: A }, { name: "./a", bytes: A }]), 'two members named "a"'],
    ["..", one({ name: "../a" }), "plain relative paths"],
    [".. inside", one({ name: "a/../../b" }), "plain relative paths"],
    ["an absolute path", one({ name: "/etc/passwd" }), "plain relative paths"],
    [".. in a prefix", one({ prefix: ".." }), "plain relative paths"],
    ["no name", one({ name: "" }), "plain relative paths"],
    ["a symbolic link", one({ type: "2", bytes: new Uint8Array(0) }), 'has type "2"; links, devices'],
    ["a hard link", one({ type: "1", bytes: new Uint8Array(0) }), 'has type "1"'],
    ["a device", one({ type: "3", bytes: new Uint8Array(0) }), 'has type "3"'],
    ["a sparse file", one({ type: "S" }), 'has type "S"'],
    ["a long link name", one({ type: "K" }), 'has type "K"'],
    ["a directory of bytes", one({ type: "5" }), "of 3 bytes"],
    ["a pax size", pax(paxRecord("size", "9")), 'pax record "size"'],
    ["a pax link", pax(paxRecord("linkpath", "x")), 'pax record "linkpath"'],
    ["a pax sparse map", pax(paxRecord("GNU.sparse.size", "9")), 'pax record "GNU.sparse.size"'],
    ["a pax path twice", pax(paxRecord("path", "b"), paxRecord("path", "c")), "refused or there twice"],
    ["a pax path that leaves", pax(paxRecord("path", "../b")), "plain relative paths"],
    ["a NUL in a pax path", pax(paxRecord("path", "b\0c")), "a NUL inside"],
    ["a pax record of a wrong length", pax(text("99 path=b\n")), "a pax header that cannot be read"],
    ["a pax record without length", pax(text("path=b\n")), "a pax header that cannot be read"],
    ["a path for all members", encodeTar([{ name: "g", type: "g", bytes: paxRecord("path", "b") }, { name: "a", bytes: A }]), "all members at once"],
    ["two long names for one member", encodeTar([{ name: "l", type: "L", bytes: text("b\0") }, { name: "l", type: "L", bytes: text("c\0") }, { name: "a", bytes: A }]), "names a member twice"],
    ["a long name for nothing", encodeTar([{ name: "l", type: "L", bytes: text("b\0") }]), "belongs to no member"],
    ["a long name of 600 bytes", encodeTar([{ name: "l", type: "L", bytes: text("b".repeat(600)) }, { name: "a" }]), "a member name of 600 bytes"],
    ["a pax header of 20 kB", encodeTar([{ name: "x", type: "x", bytes: new Uint8Array(20_000) }]), "an extension of 20000 bytes"],
    ["a gzip bomb", new Uint8Array(gzipSync(new Uint8Array(10_000_000))), "unpacks to more than"],
    ["a damaged gzip stream", Uint8Array.of(0x1f, 0x8b, 8, 0, 1, 2, 3), "is damaged"],
  ];

  test.each(bad)("refuses %s", (_, bytes, message) => {
    const thrown = thrownBy(() => parseTar(bytes));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("keeps its limit of members", () => {
    const many = encodeTar(Array.from({ length: 5 }, (_, i) => ({ name: `m${i}` })));
    expect(() => parseTar(many, { ...TAR_LIMITS, maxMembers: 4 })).toThrow("more than the 4 members allowed");
  });
});
