/**
 * Files of `torch.save`: a zip archive since torch 1.6, five pickles and raw storages before.
 *
 * Only a flat dict of tensors is read, which is what adapters are. Nothing in a file is run: its pickle may name
 * the few constructors below, and they only describe data.
 *
 * @source https://github.com/pytorch/pytorch, torch/serialization.py and torch/_utils.py (what the names mean)
 */
import { FormatError, quoted } from "./format-error.ts";
import { PICKLE_LIMITS, PickleDict, PickleGlobal, type PickleHost, type PickleLimits, PickleList, PickleObject, PickleTuple, type PickleValue, readPickle } from "./pickle.ts";
import { TORCH_DTYPE_BYTES, type TorchDtype, TorchStorage, TorchTensor } from "./torch-tensor.ts";
import { parseZip, unpackEntry, ZIP_LIMITS, type ZipEntry } from "./zip.ts";

export interface TorchLimits {
  readonly pickle: PickleLimits;
  readonly maxTensors: number;
  /** Bytes of a tensor's name in UTF-8. */
  readonly maxNameBytes: number;
}

export const TORCH_LIMITS: TorchLimits = { pickle: PICKLE_LIMITS, maxTensors: 16_384, maxNameBytes: 512 };

/** Of one matrix: PEFT writes a tied one that was trained twice for the embedding and twice for the head, in one place. */
const MAX_NAMES = 4;
/** Little-endian signature of a zip's first entry; the other form starts with a pickle. */
const ZIP_START = 0x04034b50;
const MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/**
 * @returns tensors by name, in the file's order; what is neither a tensor nor ignored is an error
 * @param ignores names whose values are left out, whatever they are
 * @throws {FormatError} for anything but a flat dict of tensors within `limits`
 */
export function parseTorch(bytes: Uint8Array, ignores: (name: string) => boolean = () => false, limits: TorchLimits = TORCH_LIMITS): Map<string, TorchTensor> {
  const isZip = bytes.length >= 4 && new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === ZIP_START;
  const value = isZip ? readZipForm(bytes, limits) : readLegacyForm(bytes, limits);
  return tensorsOf(value, ignores, bytes.length, limits);
}

function tensorsOf(value: PickleValue, ignores: (name: string) => boolean, fileBytes: number, limits: TorchLimits): Map<string, TorchTensor> {
  if (!(value instanceof PickleDict)) throw new FormatError(`the torch file must hold a dict of tensors, got ${kindOf(value)}`);
  if (value.entries.size > limits.maxTensors) {
    throw new FormatError(`the torch file holds ${value.entries.size} tensors, more than the ${limits.maxTensors} allowed`);
  }
  const tensors = new Map<string, TorchTensor>();
  let total = 0;
  for (const [name, tensor] of value.entries) {
    if (typeof name !== "string") throw new FormatError(`the torch file names a tensor by the number ${name}; names must be strings`);
    if (ignores(name)) continue;
    if (name.length > limits.maxNameBytes || new TextEncoder().encode(name).length > limits.maxNameBytes) {
      throw new FormatError(`the tensor name ${quoted(name)} is longer than ${limits.maxNameBytes} bytes`);
    }
    if (!(tensor instanceof TorchTensor)) throw new FormatError(`the torch file holds ${kindOf(tensor)} as ${quoted(name)}, which is not a tensor`);
    // Views of one storage, or of one element of it, must not make a small file a large one.
    total += tensor.numBytes;
    if (total > MAX_NAMES * fileBytes) {
      throw new FormatError(`the torch file of ${fileBytes} bytes describes tensors of more than ${MAX_NAMES} times as many, at ${quoted(name)}`);
    }
    tensors.set(name, tensor);
  }
  return tensors;
}

// ---- the two containers --------------------------------------------------------------------------

/** What may lie in the archive beside `data/KEY`, under its one folder. */
const PARTS = new Set(["data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"]);

function readZipForm(bytes: Uint8Array, limits: TorchLimits): PickleValue {
  const entries = parseZip(bytes, { ...ZIP_LIMITS, maxTotalBytes: Math.max(bytes.length, ZIP_LIMITS.maxTotalBytes) });
  const parts = partsOf(entries);
  const order = parts.get("byteorder");
  if (order !== undefined && text(order) !== "little") throw new FormatError(`the torch file has the byte order ${quoted(text(order))}; only "little" is read`);
  const pickle = parts.get("data.pkl");
  if (pickle === undefined) throw new FormatError("the torch file has no data.pkl");
  if (pickle.numBytes > limits.pickle.maxBytes) {
    throw new FormatError(`the torch file's data.pkl has ${pickle.numBytes} bytes, more than the ${limits.pickle.maxBytes} allowed`);
  }
  const host = new TorchHost("zip");
  const pickled = unpackEntry(pickle);
  const { value, end } = readPickle(pickled, 0, host, limits.pickle);
  if (end !== pickled.length) throw new FormatError(`the torch file's data.pkl goes on for ${pickled.length - end} bytes after its end`);
  for (const [key, storage] of host.storages) {
    const entry = parts.get(`data/${key}`);
    if (entry === undefined) throw new FormatError(`the torch file has no storage ${quoted(key)}, which its pickle names`);
    fill(storage, unpackEntry(entry));
  }
  return value;
}

function partsOf(entries: ReadonlyMap<string, ZipEntry>): Map<string, ZipEntry> {
  const parts = new Map<string, ZipEntry>();
  let folder: string | undefined;
  for (const [name, entry] of entries) {
    const slash = name.indexOf("/");
    folder ??= name.slice(0, slash);
    const part = name.slice(slash + 1);
    if (slash === -1 || name.slice(0, slash) !== folder || !(PARTS.has(part) || /^data\/[0-9]{1,9}$/.test(part))) {
      throw new FormatError(`the torch file has the member ${quoted(name)}, which torch.save does not write`);
    }
    parts.set(part, entry);
  }
  return parts;
}

const text = (entry: ZipEntry): string => (entry.numBytes > 64 ? "" : new TextDecoder().decode(unpackEntry(entry)).trim());

function readLegacyForm(bytes: Uint8Array, limits: TorchLimits): PickleValue {
  const plain = new TorchHost("none");
  let at = 0;
  const next = (host: PickleHost): PickleValue => {
    const { value, end } = readPickle(bytes, at, host, limits.pickle);
    at = end;
    return value;
  };
  if (next(plain) !== MAGIC || next(plain) !== LEGACY_PROTOCOL) {
    throw new FormatError("the file is not one of torch.save: it starts with neither a zip entry nor torch's magic number");
  }
  const system = next(plain);
  if (!(system instanceof PickleDict) || system.entries.get("little_endian") !== true) {
    throw new FormatError("the torch file is not little-endian; only little-endian files are read");
  }
  const host = new TorchHost("legacy");
  const value = next(host);
  const keys = next(plain);
  if (!(keys instanceof PickleList)) throw new FormatError("the torch file has no list of its storages");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (const key of keys.items) {
    const storage = typeof key === "string" ? host.storages.get(key) : undefined;
    if (storage === undefined || storage.bytes !== null) throw new FormatError("the torch file lists a storage that no tensor uses, or one twice");
    if (at + 8 > bytes.length) throw new FormatError(`the torch file ends before its storage ${quoted(storage.key)}`);
    const count = view.getBigUint64(at, true);
    at += 8;
    if (count * BigInt(storage.dtype === null ? 1 : TORCH_DTYPE_BYTES[storage.dtype]) !== BigInt(storage.numBytes)) {
      throw new FormatError(`the torch file's storage ${quoted(storage.key)} has ${count} elements, but its pickle says it has ${storage.numBytes} bytes`);
    }
    fill(storage, bytes.subarray(at, at + storage.numBytes));
    at += storage.numBytes;
  }
  for (const storage of host.storages.values()) {
    if (storage.bytes === null) throw new FormatError(`the torch file has no storage ${quoted(storage.key)}, which its pickle names`);
  }
  if (at !== bytes.length) throw new FormatError(`the torch file goes on for ${bytes.length - at} bytes after its last storage`);
  return value;
}

function fill(storage: TorchStorage, bytes: Uint8Array): void {
  if (bytes.length !== storage.numBytes) {
    throw new FormatError(`the torch file's storage ${quoted(storage.key)} has ${bytes.length} bytes, but its pickle says ${storage.numBytes}`);
  }
  storage.bytes = bytes;
}

// ---- the names that a pickle may use ---------------------------------------------------------------

const STORAGES: Readonly<Record<string, TorchDtype>> = {
  Double: "F64", Float: "F32", Half: "F16", BFloat16: "BF16", Long: "I64", Int: "I32", Short: "I16", Char: "I8", Byte: "U8", Bool: "BOOL",
};
const DTYPES: Readonly<Record<string, TorchDtype>> = {
  float64: "F64", float32: "F32", float16: "F16", bfloat16: "BF16", float8_e4m3fn: "F8_E4M3", float8_e5m2: "F8_E5M2",
  int64: "I64", int32: "I32", int16: "I16", int8: "I8", uint8: "U8", bool: "BOOL",
};

/** The type of what a storage's class holds; `null` for bytes; nothing for other names. */
const storageTypes = new Map<string, TorchDtype | null>([["torch.storage.UntypedStorage", null]]);
for (const [name, dtype] of Object.entries(STORAGES)) storageTypes.set(`torch.${name}Storage`, dtype);
const dtypes = new Map<string, TorchDtype>();
for (const [name, dtype] of Object.entries(DTYPES)) dtypes.set(`torch.${name}`, dtype);

const CONSTRUCTORS = new Set([
  "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
  "torch.Size", "torch.device",
]);

/** The result of `torch.device(...)`: where a tensor was, which does not matter here. */
class TorchDevice extends PickleObject {}

class TorchHost implements PickleHost {
  readonly storages = new Map<string, TorchStorage>();
  readonly #form: "zip" | "legacy" | "none";

  /** @param form how storages are named; `none` where there must be no tensors */
  constructor(form: "zip" | "legacy" | "none") {
    this.#form = form;
  }

  allows(global: string): boolean {
    return this.#form !== "none" && (CONSTRUCTORS.has(global) || storageTypes.has(global) || dtypes.has(global));
  }

  construct(global: string, args: readonly PickleValue[]): PickleValue {
    switch (global) {
      case "collections.OrderedDict":
        if (args.length > 0) break;
        return new PickleDict();
      case "torch._utils._rebuild_tensor_v2":
        return rebuildTensor(args.slice(0, 6), null, args.slice(6));
      case "torch._utils._rebuild_tensor_v3":
        return rebuildTensor(args.slice(0, 6), args[6] ?? null, args.slice(7));
      case "torch._utils._rebuild_parameter":
        if (!(args[0] instanceof TorchTensor) || args.length !== 3) break;
        return args[0];
      case "torch.Size":
        if (!(args[0] instanceof PickleTuple) || args.length !== 1) break;
        return args[0];
      case "torch.device":
        return new TorchDevice();
    }
    throw new FormatError(`the pickle calls ${global} with ${args.length} arguments that it does not take`);
  }

  /** `("storage", class, key, location, size)`, and a sixth item in the old form. */
  load(id: PickleValue): PickleValue {
    const items = id instanceof PickleTuple ? id.items : [];
    const [kind, type, key, location, count, view] = items;
    const isPlain = kind === "storage" && typeof key === "string" && typeof location === "string" && isCount(count) &&
      items.length === (this.#form === "legacy" ? 6 : 5) && (view === undefined || view === null);
    const dtype = type instanceof PickleGlobal ? storageTypes.get(type.name) : undefined;
    if (!isPlain || dtype === undefined) throw new FormatError("the pickle names a storage in a way that torch.save does not");
    const numBytes = count * (dtype === null ? 1 : TORCH_DTYPE_BYTES[dtype]);
    const known = this.storages.get(key);
    if (known !== undefined) {
      if (known.dtype !== dtype || known.numBytes !== numBytes) throw new FormatError(`the pickle describes the storage ${quoted(key)} in two ways`);
      return known;
    }
    const storage = new TorchStorage(key, dtype, numBytes);
    this.storages.set(key, storage);
    return storage;
  }
}

function rebuildTensor(args: readonly PickleValue[], type: PickleValue, rest: readonly PickleValue[]): TorchTensor {
  const [storage, offset, size, strides, , hooks] = args;
  const hasNoHooks = hooks instanceof PickleDict && hooks.entries.size === 0;
  const isPlain = rest.length <= 1 && (rest[0] ?? null) === null;
  if (!(storage instanceof TorchStorage) || !isCount(offset) || !isCounts(size) || !isCounts(strides) || !hasNoHooks || !isPlain) {
    throw new FormatError("the pickle describes a tensor in a way that torch.save does not");
  }
  const dtype = type === null ? storage.dtype : type instanceof PickleGlobal ? (dtypes.get(type.name) ?? null) : null;
  if (dtype === null || (type !== null && storage.dtype !== null && storage.dtype !== dtype)) {
    throw new FormatError("the pickle describes a tensor whose number format is not known");
  }
  return new TorchTensor(storage, dtype, size.items, strides.items, offset);
}

const isCount = (value: PickleValue | undefined): value is number => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;

const isCounts = (value: PickleValue | undefined): value is { readonly items: readonly number[] } & PickleTuple =>
  value instanceof PickleTuple && value.items.every(isCount);

function kindOf(value: PickleValue): string {
  if (value === null) return "None";
  if (value instanceof PickleDict) return "a dict";
  if (value instanceof PickleList) return "a list";
  if (value instanceof PickleTuple) return "a tuple";
  if (value instanceof PickleGlobal) return value.name;
  return value instanceof PickleObject ? "another object" : `a ${typeof value}`;
}
