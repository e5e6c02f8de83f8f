/** What an adapter's files hold, whether they can be served or not: read as carefully as for serving, judged by nobody. */
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { AdapterError, type ErrorCode, LorikeetError } from "../core/errors.ts";
import { isJsonObject, type JsonObject, type JsonValue, parseJsonObject } from "../formats/json.ts";
import { parseSafetensors } from "../formats/safetensors.ts";
import { parseTar } from "../formats/tar.ts";
import { parseTorch } from "../formats/torch-file.ts";
import { parseYaml } from "../formats/yaml.ts";
import { parseAdapterConfig } from "./adapter-config.ts";
import { inFile, MAX_WEIGHTS_BYTES, readBounded } from "./adapter-files.ts";
import { locateAdapter } from "./read-adapter.ts";
import { CONFIG_MEMBER, NEMO_CONFIG_LIMITS } from "./read-nemo.ts";
import { CONFIG_FILE, CONFIG_LIMITS, PICKLE_FILE, WEIGHTS_FILE } from "./read-peft.ts";

export interface Inspection {
  readonly path: string;
  /** `null` where the files are of no form that is known. */
  readonly format: "peft" | "nemo" | null;
  /** Of those that an adapter consists of, or of all in the directory where that is not known; members of an archive as `ARCHIVE/MEMBER`. */
  readonly files: readonly InspectedFile[];
  /** Fields of the configuration that are set. */
  readonly config: JsonObject;
  /** Tensors whose names differ in numbers only are one entry. */
  readonly tensors: readonly TensorGroup[];
  readonly numTensors: number;
  /** Why the files alone cannot be served on any base. */
  readonly problem: Problem | null;
}

export interface InspectedFile {
  readonly name: string;
  readonly container: "safetensors" | "torch zip" | "torch before 1.6" | "tar" | "tar.gz" | null;
  readonly numBytes: number;
  /** `null` for a file that was not read. */
  readonly sha256: string | null;
}

export interface TensorGroup {
  /** With `*` in place of numbers between dots. */
  readonly name: string;
  readonly numTensors: number;
  /** Each once. */
  readonly shapes: readonly (readonly number[])[];
  readonly dtypes: readonly string[];
}

export interface Problem {
  readonly code: ErrorCode;
  readonly field: string | null;
  readonly message: string;
}

export const problemOf = (error: LorikeetError): Problem => ({ code: error.errorCode, field: error.field ?? null, message: error.message });

/** @throws the system's error where the path cannot be read at all; whatever is wrong with the files is their `problem` */
export async function inspectAdapter(path: string): Promise<Inspection> {
  const draft = new Draft(path);
  try {
    const located = await locateAdapter(path);
    draft.format = located.format;
    if (located.format === "peft") await draft.readPeft(located.directory, located.names);
    else await draft.readNemo(located.archive);
  } catch (thrown) {
    if (!(thrown instanceof LorikeetError)) throw thrown;
    draft.problem = problemOf(thrown);
    if (draft.format === null) await draft.readUnknown();
  }
  return draft.done();
}

interface Described {
  readonly dtype: string;
  readonly shape: readonly number[];
}

/** What was found up to the first problem. */
class Draft {
  format: Inspection["format"] = null;
  problem: Problem | null = null;
  readonly #path: string;
  readonly #files: InspectedFile[] = [];
  readonly #tensors = new Map<string, Described>();
  #config: JsonObject = {};

  constructor(path: string) {
    this.#path = path;
  }

  async readPeft(directory: string, names: ReadonlySet<string>): Promise<void> {
    const json = await this.#readFile(directory, CONFIG_FILE, CONFIG_LIMITS.maxBytes);
    const config = inFile(CONFIG_FILE, () => parseJsonObject(json, CONFIG_LIMITS));
    this.#config = setFields(config);
    await this.#readWeights(directory, names.has(WEIGHTS_FILE) ? WEIGHTS_FILE : PICKLE_FILE);
    // Last, so that what cannot be served is listed all the same.
    parseAdapterConfig(config);
  }

  async readNemo(archive: string): Promise<void> {
    const name = basename(archive);
    const bytes = await this.#readFile(join(archive, ".."), name, MAX_WEIGHTS_BYTES);
    const members = inFile(name, () => parseTar(bytes));
    for (const [member, content] of members) this.#note(`${name}/${member}`, content);
    const yaml = members.get(CONFIG_MEMBER);
    if (yaml === undefined) throw new AdapterError("adapter_invalid", `the .nemo archive has no ${CONFIG_MEMBER}`);
    const config = inFile(CONFIG_MEMBER, () => parseYaml(yaml, NEMO_CONFIG_LIMITS));
    if (isJsonObject(config)) this.#config = setFields(config);
    for (const [member, content] of members) {
      if (member.endsWith(".ckpt")) this.#readTensors(member, content);
    }
  }

  /** Names alone, or the tensors of a single file of weights. */
  async readUnknown(): Promise<void> {
    const found = await stat(this.#path).catch(() => null);
    if (found === null) return;
    if (found.isDirectory()) {
      for (const name of (await readdir(this.#path)).toSorted().slice(0, MAX_LISTED)) {
        const each = await stat(join(this.#path, name)).catch(() => null);
        if (each?.isFile() === true) this.#files.push({ name, container: null, numBytes: each.size, sha256: null });
      }
      return;
    }
    try {
      await this.#readWeights(join(this.#path, ".."), basename(this.#path));
      this.problem = {
        code: "adapter_invalid",
        field: null,
        message: `a file of weights alone says nothing of ranks and scales; keep it as ${WEIGHTS_FILE} or ${PICKLE_FILE} beside its ${CONFIG_FILE}`,
      };
    } catch (thrown) {
      if (!(thrown instanceof LorikeetError)) throw thrown;
      this.problem = problemOf(thrown);
    }
  }

  done(): Inspection {
    return {
      path: this.#path,
      format: this.format,
      files: this.#files,
      config: this.#config,
      tensors: grouped(this.#tensors),
      numTensors: this.#tensors.size,
      problem: this.problem,
    };
  }

  async #readWeights(directory: string, name: string): Promise<void> {
    this.#readTensors(name, await this.#readFile(directory, name, MAX_WEIGHTS_BYTES));
  }

  #readTensors(name: string, bytes: Uint8Array): void {
    const tensors: ReadonlyMap<string, Described> = inFile(name, () => (name.endsWith(".safetensors") ? parseSafetensors(bytes) : parseTorch(bytes)));
    // Ranks of an archive hold parts of the same tensors.
    for (const [tensor, { dtype, shape }] of tensors) this.#tensors.set(this.#tensors.has(tensor) ? `${tensor} (${name})` : tensor, { dtype, shape });
  }

  async #readFile(directory: string, name: string, maxBytes: number): Promise<Uint8Array> {
    const bytes = await readBounded(join(directory, name), name, maxBytes);
    this.#note(name, bytes);
    return bytes;
  }

  #note(name: string, bytes: Uint8Array): void {
    this.#files.push({ name, container: containerOf(name, bytes), numBytes: bytes.length, sha256: new Bun.CryptoHasher("sha256").update(bytes).digest("hex") });
  }
}

const MAX_LISTED = 100;
const ZIP = [0x50, 0x4b, 0x03, 0x04];
const GZIP = [0x1f, 0x8b];

function containerOf(name: string, bytes: Uint8Array): InspectedFile["container"] {
  const startsWith = (magic: readonly number[]): boolean => magic.every((byte, i) => bytes[i] === byte);
  if (name.endsWith(".safetensors")) return "safetensors";
  if (name.endsWith(".nemo")) return startsWith(GZIP) ? "tar.gz" : "tar";
  if (/\.(json|ya?ml)$/.test(name)) return null;
  return startsWith(ZIP) ? "torch zip" : "torch before 1.6";
}

/** Without what says nothing: PEFT writes every field, most of them unset. */
const setFields = (config: JsonObject): JsonObject => Object.fromEntries(Object.entries(config).filter(([, value]) => isSaying(value)));
const isSaying = (value: JsonValue | undefined): boolean =>
  !(value === undefined || value === null || value === false || value === "" || (typeof value === "object" && Object.keys(value).length === 0));

function grouped(tensors: ReadonlyMap<string, Described>): TensorGroup[] {
  const groups = Map.groupBy(tensors, ([name]) => name.replaceAll(/(?<=^|\.)\d+(?=\.|$)/g, "*"));
  return Array.from(groups, ([name, list]) => ({
    name,
    numTensors: list.length,
    shapes: [...new Map(list.map(([, { shape }]) => [shape.join(), shape])).values()],
    dtypes: [...new Set(list.map(([, { dtype }]) => dtype))],
  }));
}
