import { describe, expect, test } from "bun:test";
import { FormatError } from "../../src/formats/format-error.ts";
import { PICKLE_LIMITS, PickleDict, type PickleHost, PickleList, PickleTuple, type PickleValue, readPickle } from "../../src/formats/pickle.ts";
import { op, pickle } from "../helpers/archives.ts";
import { thrownBy } from "../helpers/thrown.ts";

const called: string[] = [];
const host: PickleHost = {
  allows: (global) => global === "known.name",
  construct: (global, args) => {
    called.push(`${global} ${args.length}`);
    return new PickleDict();
  },
  load: (id) => id,
};
const read = (bytes: Uint8Array, limits = PICKLE_LIMITS): PickleValue => readPickle(bytes, 0, host, limits).value;
/** As plain values. */
const plain = (value: PickleValue): unknown => {
  if (value instanceof PickleTuple) return value.items.map(plain);
  if (value instanceof PickleList) return { list: value.items.map(plain) };
  if (value instanceof PickleDict) return Object.fromEntries([...value.entries].map(([key, each]) => [key, plain(each)]));
  return value;
};
const raw = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);

describe("readPickle", () => {
  test.each<[string, Uint8Array, unknown]>([
    ["None", pickle(op.none()), null],
    ["booleans", pickle(op.mark(), op.yes(), op.no(), op.tuple()), [true, false]],
    ["integers of four bytes", pickle(op.int(-2)), -2],
    ["integers of one and two bytes", pickle(op.mark(), raw(0x4b, 200), raw(0x4d, 1, 2), op.tuple()), [200, 513]],
    ["long integers", pickle(op.mark(), op.long(2n ** 40n), op.long(0x1950a86a20f9469cfc6cn), raw(0x8a, 1, 255), raw(0x8a, 0), raw(0x8b, 2, 0, 0, 0, 0, 1), op.tuple()), [2 ** 40, 0x1950a86a20f9469cfc6cn, -1, 0, 256]],
    ["floats", pickle(raw(0x47, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0)), 1.5],
    ["strings", pickle(op.mark(), op.text("é"), op.shortText("b"), raw(0x55, 1, 0x63), raw(0x54, 1, 0, 0, 0, 0x64), raw(0x8d, 1, 0, 0, 0, 0, 0, 0, 0, 0x65), op.tuple()), ["é", "b", "c", "d", "e"]],
    ["bytes", pickle(op.mark(), raw(0x43, 1, 9), raw(0x42, 1, 0, 0, 0, 8), op.tuple()), [raw(9), raw(8)]],
    ["short tuples", pickle(op.none(), raw(0x85), op.yes(), raw(0x86), op.no(), op.none(), raw(0x87)), [[[null], true], false, null]],
    ["lists", pickle(op.emptyList(), op.none(), op.append(), op.mark(), op.yes(), op.no(), op.appends()), { list: [null, true, false] }],
    ["dicts", pickle(op.emptyDict(), op.text("a"), op.int(1), op.setItem(), op.mark(), op.text("b"), op.int(2), op.int(3), op.none(), op.setItems()), { a: 1, b: 2, 3: null }],
    ["what was remembered", pickle(op.mark(), op.text("a"), op.put(7), op.get(7), raw(0x6a, 7, 0, 0, 0), op.tuple()), ["a", "a", "a"]],
    ["protocol 4", new Uint8Array(Buffer.concat([op.proto(4), op.frame(5), op.shortText("a"), op.memoize(), op.stop()])), "a"],
    ["values thrown away", pickle(op.none(), op.mark(), op.yes(), raw(0x31), op.yes(), op.pop()), null],
    ["stored ids", pickle(op.text("id"), op.persistent()), "id"],
  ])("reads %s", (_, bytes, value) => {
    expect(plain(read(bytes))).toEqual(value);
  });

  test("asks the host for what a name stands for, and never runs it", () => {
    called.length = 0;
    expect(plain(read(pickle(op.global("known", "name"), op.emptyTuple(), op.reduce())))).toEqual({});
    expect(plain(read(pickle(op.text("known"), op.text("name"), op.stackGlobal(), op.mark(), op.none(), op.tuple(), op.newObject())))).toEqual({});
    expect(plain(read(pickle(op.emptyDict(), op.emptyDict(), op.build())))).toEqual({});
    expect(called).toEqual(["known.name 0", "known.name 1"]);
  });

  test("says where the pickle ended", () => {
    expect(readPickle(raw(0, 0x4e, 0x2e, 1, 2), 1, host)).toEqual({ value: null, end: 3 });
  });

  const bad: readonly (readonly [string, Uint8Array, string])[] = [
    ["nothing", raw(), "asks for 1 bytes at byte 0, where 0 are left"],
    ["no end", raw(0x4e), "asks for 1 bytes"],
    ["protocol 6", raw(0x80, 6, 0x4e, 0x2e), "protocol 6"],
    ["os.system", pickle(op.global("os", "system"), op.mark(), op.text("id"), op.tuple(), op.reduce()), 'asks for "os.system"'],
    ["builtins.getattr from the stack", pickle(op.text("builtins"), op.text("getattr"), op.stackGlobal()), 'asks for "builtins.getattr"'],
    ["a name that is no string", pickle(op.none(), op.text("name"), op.stackGlobal()), "names a global by what is not a string"],
    ["a name without end", raw(0x63, 0x61, 0x61), "does not end"],
    ["calling a string", pickle(op.text("known.name"), op.emptyTuple(), op.reduce()), "calls what is not a name"],
    ["calling with a list", pickle(op.global("known", "name"), op.emptyList(), op.reduce()), "with what is not a tuple"],
    ["the state of a list", pickle(op.emptyList(), op.none(), op.build()), "sets the state of what is not a dict"],
    ["INST", raw(0x28, 0x69, 0x6f, 0x0a, 0x70, 0x0a, 0x2e), "opcode 0x69"],
    ["OBJ", pickle(op.mark(), raw(0x6f)), "opcode 0x6f"],
    ["EXT1", pickle(raw(0x82, 1)), "opcode 0x82"],
    ["PERSID", raw(0x50, 0x61, 0x0a, 0x2e), "opcode 0x50"],
    ["DUP, which doubles", pickle(op.none(), raw(0x32)), "opcode 0x32"],
    ["NEXT_BUFFER", pickle(raw(0x97)), "opcode 0x97"],
    ["BYTEARRAY8", pickle(raw(0x96, 0, 0, 0, 0, 0, 0, 0, 0)), "opcode 0x96"],
    ["a string of 4 GiB", pickle(raw(0x58, 255, 255, 255, 255)), "a string of 4294967295 bytes"],
    ["a string of 2^63 bytes", pickle(raw(0x8d, 255, 255, 255, 255, 255, 255, 255, 127)), "bytes, more than the 4096 allowed"],
    ["a string that is cut", raw(0x58, 9, 0, 0, 0, 0x61), "asks for 9 bytes"],
    ["bad UTF-8", pickle(raw(0x8c, 1, 0xff)), "not valid UTF-8"],
    ["an integer of 2 GiB", pickle(raw(0x8b, 255, 255, 255, 127)), "an integer of 2147483647 bytes"],
    ["a frame that is longer than the file", raw(0x95, 99, 0, 0, 0, 0, 0, 0, 0, 0x4e, 0x2e), "asks for 99 bytes"],
    ["taking from an empty stack", pickle(raw(0x85)), "takes a value"],
    ["taking across a mark", pickle(op.none(), op.mark(), op.put(0)), "takes a value"],
    ["a mark that is not there", pickle(op.none(), op.tuple()), "looks for a mark"],
    ["remembering nothing", pickle(op.put(0)), "takes a value"],
    ["asking for what was not remembered", pickle(op.get(1)), "asks for value 1"],
    ["a key without a value", pickle(op.emptyDict(), op.mark(), op.none(), op.setItems()), "a key without a value"],
    ["a key that is a tuple", pickle(op.emptyDict(), op.emptyTuple(), op.none(), op.setItem()), "neither a string nor a number"],
    ["a key twice", pickle(op.emptyDict(), op.text("a"), op.none(), op.setItem(), op.text("a"), op.none(), op.setItem()), '"a" twice'],
    ["items of a tuple", pickle(op.emptyTuple(), op.text("a"), op.none(), op.setItem()), "sets items of what is not a dict"],
    ["appending to a dict", pickle(op.emptyDict(), op.none(), op.append()), "appends to what is not a list"],
    ["values left over", pickle(op.none(), op.none()), "1 values too many"],
  ];

  test.each(bad)("refuses %s", (_, bytes, message) => {
    const thrown = thrownBy(() => read(bytes));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain(message);
  });

  test("keeps its limits", () => {
    const many = (part: Uint8Array): Uint8Array => pickle(...Array.from({ length: 100 }, () => part));
    const limited = (change: object): typeof PICKLE_LIMITS => ({ ...PICKLE_LIMITS, ...change });
    expect(() => read(many(op.none()), limited({ maxStack: 50 }))).toThrow("beyond the 50 values allowed");
    expect(() => read(many(op.none()), limited({ maxOpcodes: 50 }))).toThrow("more than the 50 opcodes allowed");
    expect(() => read(pickle(...Array.from({ length: 100 }, () => [op.none(), op.memoize(), op.pop()]).flat()), limited({ maxMemo: 50 }))).toThrow("more than the 50 values allowed");
    expect(() => read(many(op.none()), limited({ maxBytes: 50 }))).toThrow("where 0 are left");
  });
});
