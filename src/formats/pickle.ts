/**
 * Python's pickle as data: protocols 0 to 5 as far as `torch.save` uses them, and nothing that could run.
 *
 * A name in the file (`GLOBAL`) is a symbol that is compared with a list, never looked up; "calling" it asks the
 * host, which knows a handful of constructors of plain data. Every other name and opcode ends the reading.
 *
 * @source https://github.com/python/cpython, Lib/pickletools.py (meaning of the opcodes)
 */
import { FormatError, quoted } from "./format-error.ts";

export type PickleValue = null | boolean | number | bigint | string | Uint8Array | PickleTuple | PickleList | PickleDict | PickleGlobal | PickleObject;

export class PickleTuple {
  readonly items: readonly PickleValue[];

  constructor(items: readonly PickleValue[]) {
    this.items = items;
  }
}
export class PickleList {
  readonly items: PickleValue[] = [];
}
export class PickleDict {
  readonly entries = new Map<string | number, PickleValue>();
}
/** A name, `module.name`, from the host's list. */
export class PickleGlobal {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}
/** Whatever a host's constructor made. */
export abstract class PickleObject {}

export interface PickleHost {
  /** Whether a file may name it. */
  allows(global: string): boolean;
  /** Makes what `global(*args)` stands for. */
  construct(global: string, args: readonly PickleValue[]): PickleValue;
  /** Finds what is stored beside the pickle. */
  load(id: PickleValue): PickleValue;
}

export interface PickleLimits {
  readonly maxBytes: number;
  readonly maxOpcodes: number;
  readonly maxStack: number;
  readonly maxMemo: number;
  /** Of one string, in UTF-8. */
  readonly maxStringBytes: number;
}

/** A state dict of 448 tensors takes 12,000 opcodes. */
export const PICKLE_LIMITS: PickleLimits = {
  maxBytes: 8 * 1024 * 1024,
  maxOpcodes: 200_000,
  maxStack: 100_000,
  maxMemo: 100_000,
  maxStringBytes: 4096,
};

/** Longest integer: beyond torch's 80-bit magic number nothing needs more. */
const MAX_INTEGER_BYTES = 16;

const MARK = Symbol("mark");
type Slot = PickleValue | typeof MARK;

/**
 * Reads one pickle from `bytes[start ..]`.
 *
 * @returns its value, and where the next byte after it lies
 * @throws {FormatError} for anything that is not such a pickle within `limits`
 */
export function readPickle(bytes: Uint8Array, start: number, host: PickleHost, limits: PickleLimits = PICKLE_LIMITS): { value: PickleValue; end: number } {
  const machine = new PickleMachine(bytes, start, host, limits);
  return { value: machine.run(), end: machine.position };
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class PickleMachine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #host: PickleHost;
  readonly #limits: PickleLimits;
  readonly #end: number;
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, PickleValue>();
  #at: number;

  constructor(bytes: Uint8Array, start: number, host: PickleHost, limits: PickleLimits) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#host = host;
    this.#limits = limits;
    this.#at = start;
    this.#end = Math.min(bytes.length, start + limits.maxBytes);
  }

  get position(): number {
    return this.#at;
  }

  run(): PickleValue {
    for (let count = 0; ; count++) {
      if (count >= this.#limits.maxOpcodes) throw new FormatError(`the pickle has more than the ${this.#limits.maxOpcodes} opcodes allowed`);
      const opcode = this.#uint8();
      if (opcode === 0x2e) return this.#result();
      this.#step(opcode);
      if (this.#stack.length > this.#limits.maxStack) {
        throw new FormatError(`the pickle's stack grows beyond the ${this.#limits.maxStack} values allowed`);
      }
    }
  }

  #step(opcode: number): void {
    const stack = this.#stack;
    switch (opcode) {
      case 0x80: // PROTO
        return this.#protocol();
      case 0x95: // FRAME: a hint for readers of streams; the length must not lie all the same
        return this.#skipFrame();
      case 0x28: // MARK
        return void stack.push(MARK);
      case 0x30: // POP
        if (stack.pop() === undefined) throw this.#empty();
        return;
      case 0x31: // POP_MARK
        return void this.#popMark();
      case 0x4e: // NONE
        return void stack.push(null);
      case 0x88: // NEWTRUE
        return void stack.push(true);
      case 0x89: // NEWFALSE
        return void stack.push(false);
      case 0x4a: // BININT
        return void stack.push(this.#view.getInt32(this.#take(4), true));
      case 0x4b: // BININT1
        return void stack.push(this.#uint8());
      case 0x4d: // BININT2
        return void stack.push(this.#view.getUint16(this.#take(2), true));
      case 0x8a: // LONG1
        return void stack.push(this.#integer(this.#uint8()));
      case 0x8b: // LONG4
        return void stack.push(this.#integer(this.#uint32()));
      case 0x47: // BINFLOAT
        return void stack.push(this.#view.getFloat64(this.#take(8), false));
      case 0x58: // BINUNICODE
      case 0x54: // BINSTRING
        return void stack.push(this.#string(this.#uint32()));
      case 0x8c: // SHORT_BINUNICODE
      case 0x55: // SHORT_BINSTRING
        return void stack.push(this.#string(this.#uint8()));
      case 0x8d: // BINUNICODE8
        return void stack.push(this.#string(this.#uint64()));
      case 0x42: // BINBYTES
        return void stack.push(this.#raw(this.#uint32()));
      case 0x43: // SHORT_BINBYTES
        return void stack.push(this.#raw(this.#uint8()));
      case 0x29: // EMPTY_TUPLE
        return void stack.push(new PickleTuple([]));
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.#tuple(opcode - 0x84);
      case 0x74: // TUPLE
        return void stack.push(new PickleTuple(this.#popMark()));
      case 0x5d: // EMPTY_LIST
        return void stack.push(new PickleList());
      case 0x61: // APPEND
        return this.#append([this.#pop()]);
      case 0x65: // APPENDS
        return this.#append(this.#popMark());
      case 0x7d: // EMPTY_DICT
        return void stack.push(new PickleDict());
      case 0x73: { // SETITEM
        const value = this.#pop();
        return this.#setItems([this.#pop(), value]);
      }
      case 0x75: // SETITEMS
        return this.#setItems(this.#popMark());
      case 0x71: // BINPUT
        return this.#put(this.#uint8());
      case 0x72: // LONG_BINPUT
        return this.#put(this.#uint32());
      case 0x94: // MEMOIZE
        return this.#put(this.#memo.size);
      case 0x68: // BINGET
        return this.#get(this.#uint8());
      case 0x6a: // LONG_BINGET
        return this.#get(this.#uint32());
      case 0x63: { // GLOBAL
        const module = this.#line();
        return this.#global(module, this.#line());
      }
      case 0x93: { // STACK_GLOBAL
        const name = this.#pop();
        return this.#global(this.#pop(), name);
      }
      case 0x51: // BINPERSID
        return void stack.push(this.#host.load(this.#pop()));
      case 0x52: // REDUCE
      case 0x81: { // NEWOBJ
        const args = this.#pop();
        return this.#construct(this.#pop(), args);
      }
      case 0x62: // BUILD
        return this.#build();
      default:
        throw new FormatError(`the pickle has opcode 0x${opcode.toString(16).padStart(2, "0")} at byte ${this.#at - 1}, which no file of tensors needs`);
    }
  }

  #result(): PickleValue {
    const value = this.#pop();
    if (this.#stack.length > 0) throw new FormatError(`the pickle ends with ${this.#stack.length} values too many`);
    return value;
  }

  #protocol(): void {
    const version = this.#uint8();
    if (version > 5) throw new FormatError(`the pickle has protocol ${version}; protocols up to 5 are read`);
  }

  #skipFrame(): void {
    const length = this.#uint64();
    if (this.#at + length > this.#end) throw this.#short(length);
  }

  #tuple(length: number): void {
    const items: PickleValue[] = [];
    for (let i = 0; i < length; i++) items.unshift(this.#pop());
    this.#stack.push(new PickleTuple(items));
  }

  #append(items: readonly PickleValue[]): void {
    const list = this.#top();
    if (!(list instanceof PickleList)) throw new FormatError("the pickle appends to what is not a list");
    for (const item of items) list.items.push(item);
  }

  #setItems(items: readonly PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof PickleDict)) throw new FormatError("the pickle sets items of what is not a dict");
    if (items.length % 2 !== 0) throw new FormatError("the pickle sets a key without a value");
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== "string" && typeof key !== "number") throw new FormatError("the pickle has a dict key that is neither a string nor a number");
      if (dict.entries.has(key)) throw new FormatError(`the pickle has the dict key ${quoted(String(key))} twice`);
      dict.entries.set(key, items[i + 1]!);
    }
  }

  #put(index: number): void {
    if (this.#memo.size >= this.#limits.maxMemo) throw new FormatError(`the pickle remembers more than the ${this.#limits.maxMemo} values allowed`);
    this.#memo.set(index, this.#top());
  }

  #get(index: number): void {
    const value = this.#memo.get(index);
    if (value === undefined) throw new FormatError(`the pickle asks for value ${index}, which it did not remember`);
    this.#stack.push(value);
  }

  #global(module: PickleValue, name: PickleValue): void {
    if (typeof module !== "string" || typeof name !== "string") throw new FormatError("the pickle names a global by what is not a string");
    const global = `${module}.${name}`;
    if (!this.#host.allows(global)) {
      throw new FormatError(`the pickle asks for ${quoted(global)}; files of tensors need no such name, so it is refused`);
    }
    this.#stack.push(new PickleGlobal(global));
  }

  #construct(callee: PickleValue, args: PickleValue): void {
    if (!(callee instanceof PickleGlobal)) throw new FormatError("the pickle calls what is not a name");
    if (!(args instanceof PickleTuple)) throw new FormatError(`the pickle calls ${callee.name} with what is not a tuple`);
    this.#stack.push(this.#host.construct(callee.name, args.items));
  }

  /** State of an ordered dict is its `_metadata`, which says nothing about tensors. */
  #build(): void {
    this.#pop();
    if (!(this.#top() instanceof PickleDict)) throw new FormatError("the pickle sets the state of what is not a dict");
  }

  #pop(): PickleValue {
    const value = this.#stack.pop();
    if (value === undefined || value === MARK) throw this.#empty();
    return value;
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK) throw this.#empty();
    return value;
  }

  #popMark(): PickleValue[] {
    const from = this.#stack.lastIndexOf(MARK);
    if (from === -1) throw new FormatError("the pickle looks for a mark that it did not set");
    const items = this.#stack.splice(from);
    return items.slice(1) as PickleValue[];
  }

  #empty(): FormatError {
    return new FormatError(`the pickle takes a value at byte ${this.#at - 1} that it did not give`);
  }

  #short(length: number): FormatError {
    return new FormatError(`the pickle asks for ${length} bytes at byte ${this.#at}, where ${this.#end - this.#at} are left`);
  }

  /** @returns where the next `length` bytes begin */
  #take(length: number): number {
    const from = this.#at;
    if (from + length > this.#end) throw this.#short(length);
    this.#at = from + length;
    return from;
  }

  #uint8(): number {
    return this.#bytes[this.#take(1)]!;
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  #uint64(): number {
    const at = this.#take(8);
    return this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32;
  }

  /** Two's complement, little-endian; none is zero. */
  #integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES) throw new FormatError(`the pickle has an integer of ${length} bytes, more than the ${MAX_INTEGER_BYTES} allowed`);
    const from = this.#take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[from + i]!);
    const signed = BigInt.asIntN(length * 8, value);
    const small = Number(signed);
    return Number.isSafeInteger(small) ? small : signed;
  }

  #string(length: number): string {
    return this.#decode(this.#raw(length));
  }

  #raw(length: number): Uint8Array {
    if (length > this.#limits.maxStringBytes) {
      throw new FormatError(`the pickle has a string of ${length} bytes, more than the ${this.#limits.maxStringBytes} allowed`);
    }
    const from = this.#take(length);
    return this.#bytes.subarray(from, from + length);
  }

  /** Up to a line feed, which is left out. */
  #line(): string {
    const limit = Math.min(this.#end, this.#at + this.#limits.maxStringBytes + 1);
    const end = this.#bytes.subarray(this.#at, limit).indexOf(0x0a);
    if (end === -1) throw new FormatError(`the pickle has a name at byte ${this.#at} that does not end`);
    const text = this.#decode(this.#bytes.subarray(this.#at, this.#at + end));
    this.#at += end + 1;
    return text;
  }

  #decode(bytes: Uint8Array): string {
    try {
      return utf8.decode(bytes);
    } catch (cause) {
      throw new FormatError(`the pickle has a string before byte ${this.#at} that is not valid UTF-8`, { cause });
    }
  }
}
