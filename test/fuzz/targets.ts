/** The readers of files that nobody vouches for, each with its inputs and its check. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import * as adapterConfig from "../../src/lora/adapter-config.ts";
import * as json from "../../src/formats/json.ts";
import * as safetensors from "../../src/formats/safetensors.ts";
import * as tar from "../../src/formats/tar.ts";
import * as torchFile from "../../src/formats/torch-file.ts";
import * as zip from "../../src/formats/zip.ts";
import { encodeLegacyTorch, encodeTar, encodeTorch, encodeZip, localPart, op, paxRecord, pickle, pickledDict, type PickledTensor, type TarMember, type ZipMember } from "../helpers/archives.ts";
import { safetensorsBytes } from "../helpers/model-files.ts";
import { checkConfig, checkPickle, checkSafetensors, checkTar, checkTensors, checkZip, MOST_NAMES } from "./checks.ts";
import type { Target } from "./harness.ts";
import { mutate, noise } from "./mutate.ts";
import type { Random } from "./random.ts";

/** The modules under test; a test may put broken copies in their place. */
export interface Readers {
  readonly adapterConfig: typeof adapterConfig;
  readonly json: typeof json;
  readonly safetensors: typeof safetensors;
  readonly tar: typeof tar;
  readonly torchFile: typeof torchFile;
  readonly zip: typeof zip;
}

export const READERS: Readers = { adapterConfig, json, safetensors, tar, torchFile, zip };

/** A new valid file is made this seldom; making one costs more than changing one. */
const FRESH = 10;
const POOL = 16;
const EDGE_COUNTS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 255, 65_536, 2 ** 31 - 1];

/** Mutations of recent files, fresh ones as they are, and noise. */
function inputs(fresh: (random: Random) => Uint8Array, repair?: (bytes: Uint8Array, random: Random) => Uint8Array): (random: Random) => Uint8Array {
  const pool: Uint8Array[] = [];
  return (random) => {
    if (pool.length < POOL || random.oneIn(FRESH)) {
      const made = fresh(random);
      pool[pool.length < POOL ? pool.length : random.below(POOL)] = made;
      return made;
    }
    if (random.oneIn(64)) return noise(random, 600);
    const changed = mutate(random.pick(pool), random, pool);
    return repair === undefined || random.oneIn(3) ? changed : repair(changed, random);
  };
}

export function targetsOf(readers: Readers = READERS): readonly Target<unknown>[] {
  return [safetensorsTarget(readers), zipTarget(readers), torchTarget(readers), legacyTarget(readers), tarTarget(readers), configTarget(readers)] as readonly Target<unknown>[];
}

// ---- safetensors -------------------------------------------------------------------------------------

function safetensorsTarget({ safetensors: { parseSafetensors } }: Readers): Target<ReturnType<typeof parseSafetensors>> {
  const fresh = (random: Random): Uint8Array => {
    let at = 0;
    const header: Record<string, unknown> = random.oneIn(3) ? { __metadata__: { format: "pt" } } : {};
    for (let i = random.below(4); i >= 0; i--) {
      const dtype = random.pick(["F32", "F16", "BF16", "F32", "I64"]);
      const shape = Array.from({ length: random.below(4) }, () => (random.oneIn(20) ? random.pick(EDGE_COUNTS) : random.below(5)));
      const size = shape.reduce((product, each) => product * each, { F32: 4, I64: 8 }[dtype] ?? 2);
      const shift = random.oneIn(12) ? random.below(9) - 4 : 0;
      header[`t${i}`] = { dtype, shape, data_offsets: [at + shift, at + size + (random.oneIn(12) ? random.below(9) - 4 : shift)] };
      at += Math.min(size, 400);
    }
    return safetensorsBytes(JSON.stringify(header), new Uint8Array(at));
  };
  return { name: "safetensors", generate: inputs(fresh), parse: (bytes) => parseSafetensors(bytes), check: checkSafetensors };
}

// ---- zip ---------------------------------------------------------------------------------------------

function zipTarget({ zip: { parseZip, unpackEntry } }: Readers): Target<{ name: string; packed: Uint8Array; unpacked: Uint8Array }[]> {
  const fresh = (random: Random): Uint8Array => {
    const members = Array.from({ length: random.below(4) }, (_, i): ZipMember => {
      const deflate = random.oneIn(4);
      return {
        name: random.oneIn(10) ? random.pick(["../a", "/a", "a\\b", "a//b", "a/", "", "x/m0", "."]) : `x/m${i}`,
        bytes: random.oneIn(3) ? new Uint8Array(random.below(200)) : noise(random, 40),
        deflate,
        descriptor: random.oneIn(2),
        ...(random.oneIn(12) ? { flags: random.pick([0, 1, 8, 0x808, 0x840]) } : {}),
        ...(random.oneIn(16) ? { method: random.pick([0, 8, 12]) } : {}),
        ...(random.oneIn(16) ? { numBytes: random.pick(EDGE_COUNTS) } : {}),
        ...(random.oneIn(16) ? { crc: random.next() } : {}),
        ...(random.oneIn(16) ? { localName: `x/m${random.below(4)}` } : {}),
        ...(random.oneIn(10) ? { start: random.below(120) } : {}),
      };
    });
    if (random.oneIn(16)) {
      // One member's bytes are another, header and all, which the directory lists as well.
      const inner: ZipMember = { name: "x/inner", bytes: noise(random, 40) };
      const outer: ZipMember = { name: "x/outer", bytes: localPart(inner) };
      return encodeZip([outer, { ...inner, isHidden: true, start: 30 + outer.name.length }]);
    }
    return encodeZip(members, {
      zip64: random.oneIn(2),
      ...(random.oneIn(16) ? { numEntries: random.below(5) } : {}),
      ...(random.oneIn(16) ? { gap: random.below(20) } : {}),
    });
  };
  return {
    name: "zip",
    generate: inputs(fresh),
    parse: (bytes) => Array.from(parseZip(bytes).values(), (entry) => ({ name: entry.name, packed: entry.packed, unpacked: unpackEntry(entry) })),
    check: checkZip,
  };
}

// ---- torch -------------------------------------------------------------------------------------------

const GLOBALS = [["os", "system"], ["builtins", "eval"], ["torch", "load"], ["collections", "OrderedDict"], ["torch", "FloatStorage"], ["torch._utils", "_rebuild_tensor_v3"]] as const;

const small = (random: Random): number => (random.oneIn(14) ? random.pick(EDGE_COUNTS) : random.below(4));

function freshTensors(random: Random): PickledTensor[] {
  return Array.from({ length: 1 + random.below(2) }, (_, i): PickledTensor => {
    const shape = Array.from({ length: random.below(3) }, () => small(random));
    return {
      name: `w${i}`,
      key: String(random.below(2)),
      storage: random.oneIn(8) ? random.pick(["HalfStorage", "DoubleStorage", "LongStorage", "XStorage"]) : "FloatStorage",
      count: random.oneIn(12) ? random.pick(EDGE_COUNTS) : 12,
      shape,
      ...(random.oneIn(3) ? { strides: shape.map(() => small(random)) } : {}),
      ...(random.oneIn(4) ? { offset: small(random) } : {}),
    };
  });
}

/** A dict of tensors, sometimes with something else in it. */
function freshPickle(random: Random, isLegacy: boolean): Uint8Array {
  if (!random.oneIn(8)) return pickledDict(freshTensors(random), isLegacy);
  const [module, name] = random.pick(GLOBALS);
  // Named and dropped: what is left is a plain dict.
  if (random.oneIn(3)) return pickle(op.global(module, name), op.pop(), pickledDict(freshTensors(random), isLegacy).subarray(2, -1));
  return pickle(op.emptyDict(), op.text("w"), op.global(module, name), ...(random.oneIn(2) ? [op.emptyTuple(), op.reduce()] : []), op.setItem());
}

type TorchTensors = ReturnType<typeof torchFile.parseTorch>;

function checkTorch(fileBytes: number, tensors: TorchTensors): string | null {
  // Before any is made contiguous: what a lying shape stands for may not fit into memory.
  const total = Array.from(tensors.values(), ({ numBytes }) => numBytes).reduce((sum, each) => sum + each, 0);
  if (total > MOST_NAMES * fileBytes) return `a file of ${fileBytes} bytes gives tensors of ${total}`;
  const views = Array.from(tensors, ([name, tensor]) => {
    const { dtype, shape, strides, offset, storage } = tensor;
    return [name, { dtype, shape, strides, offset, storage: storage.bytes!, bytes: tensor.rowMajorBytes() }] as const;
  });
  return checkTensors(fileBytes, new Map(views));
}

const FLOATS = Uint8Array.from({ length: 48 }, (_, i) => i);

function torchTarget({ torchFile: { parseTorch } }: Readers): Target<{ pickled: Uint8Array; tensors: TorchTensors }> {
  let lastPickle: Uint8Array = pickledDict([]);
  // The pickle is what is changed; its archive keeps the right checksums, so that the changes are read.
  const pickles = inputs((random) => freshPickle(random, false));
  return {
    name: "torch zip and pickle",
    generate: (random) => {
      lastPickle = pickles(random);
      const file = encodeTorch(lastPickle, random.oneIn(3) ? { 0: FLOATS, 1: FLOATS } : { [random.below(2)]: FLOATS });
      return random.oneIn(40) ? mutate(file, random, [file]) : file;
    },
    parse: (bytes) => ({ pickled: lastPickle, tensors: parseTorch(bytes) }),
    check: (bytes, { pickled, tensors }) => checkPickle(pickled) ?? checkTorch(bytes.length, tensors),
  };
}

function legacyTarget({ torchFile: { parseTorch } }: Readers): Target<TorchTensors> {
  const storage = { count: 12, bytes: FLOATS };
  const fresh = (random: Random): Uint8Array =>
    encodeLegacyTorch(freshPickle(random, true), random.oneIn(3) ? { 0: storage, 1: storage } : { [random.below(2)]: { ...storage, count: random.oneIn(10) ? small(random) : 12 } });
  return { name: "torch legacy", generate: inputs(fresh), parse: (bytes) => parseTorch(bytes), check: (bytes, tensors) => checkTorch(bytes.length, tensors) };
}

// ---- tar ---------------------------------------------------------------------------------------------

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

function tarTarget({ tar: { parseTar } }: Readers): Target<Map<string, Uint8Array>> {
  const fresh = (random: Random): Uint8Array => {
    const members = Array.from({ length: random.below(3) }, (_, i): TarMember[] => {
      const name = random.oneIn(8) ? random.pick(["../a", "/a", "a\\b", "a//b", "", "m0"]) : `./m${i}`;
      const file: TarMember = {
        name,
        bytes: noise(random, 40),
        ...(random.oneIn(6) ? { type: random.pick(["0", "\0", "1", "2", "3", "5", "6", "7", "S", "K", "g"]) } : {}),
        ...(random.oneIn(16) ? { size: random.pick(["00000000040\0", "77777777777\0", "0x10       \0", "           \0"]) } : {}),
        ...(random.oneIn(16) ? { prefix: random.pick(["..", "a/b", "/"]) } : {}),
      };
      if (random.oneIn(5)) return [{ name: "././@LongLink", type: "L", bytes: text(`${random.pick(["long", "../up", "d/e"])}\0`) }, file];
      if (random.oneIn(5)) return [{ name: "pax", type: "x", bytes: paxRecord(random.pick(["path", "mtime", "size", "linkpath"]), random.pick(["p/q", "1.5", "../x", "7"])) }, file];
      return [file];
    }).flat();
    return encodeTar(members, random.oneIn(10) ? random.below(3) : 2);
  };
  // A changed header with the right checksum is read on; some archives come packed.
  const repair = (bytes: Uint8Array, random: Random): Uint8Array => {
    for (let at = 0; at + 512 <= bytes.length; at += 512) {
      const header = bytes.subarray(at, at + 512);
      if (header[257] !== 0x75) continue;
      header.fill(0x20, 148, 156);
      header.set(text(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `), 148);
    }
    return random.oneIn(50) ? new Uint8Array(gzipSync(bytes)) : bytes;
  };
  return { name: "tar", generate: inputs(fresh, repair), parse: (bytes) => parseTar(bytes), check: checkTar };
}

// ---- adapter_config.json -----------------------------------------------------------------------------

const CONFIG = JSON.parse(readFileSync(join(import.meta.dir, "../fixtures/peft/patterns/adapter_config.json"), "utf8")) as Record<string, unknown>;
const VALUES = [null, true, false, 0, 1, -1, 8, 1e308, 2.5, "", "LORA", "all", "none", "8", [], [1], ["q_proj"], {}, { a: 1 }, [[0, 2]], "lora_only", [5, 3], [3, 3], { embed_tokens: [1] }];

function configTarget({ adapterConfig: { parseAdapterConfig }, json: { parseJsonObject } }: Readers): Target<adapterConfig.AdapterConfig> {
  const fields = Object.keys(CONFIG);
  const fresh = (random: Random): Uint8Array => {
    const config: Record<string, unknown> = { ...CONFIG };
    for (let count = random.below(4); count > 0; count--) {
      const field = random.pick(fields);
      if (random.oneIn(4)) delete config[field];
      else config[field] = random.pick(VALUES);
    }
    return text(JSON.stringify(config));
  };
  return {
    name: "adapter_config",
    generate: inputs(fresh),
    parse: (bytes) => parseAdapterConfig(parseJsonObject(bytes, { maxBytes: 65_536, maxDepth: 16 })),
    check: checkConfig,
  };
}
