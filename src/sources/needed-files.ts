/** Which of a source's files are read here. Nothing else is downloaded: no code, no template of an adapter, no other format. */
import { FormatError } from "../formats/format-error.ts";
import { parseJsonObject } from "../formats/json.ts";

export type SourceKind = "model" | "adapter";

const MIB = 2 ** 20;
const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";
/** As `check-weights` finds them later; a name in an index is a name in the same folder. */
const SHARD = /^[\w.-]{1,200}\.safetensors$/;

const ARCHIVE = /^[\w.-]{1,200}\.nemo$/;
const MAX_SHARDS = 10_000;
export const INDEX_LIMITS = { maxBytes: 64 * MIB, maxDepth: 8 };

/** Largest size of a file, by its name. */
export function maxBytesOf(kind: SourceKind, name: string): number {
  if (/\.(json|jinja)$/.test(name)) return 64 * MIB;
  return kind === "adapter" ? 2 * 2 ** 30 : 2 ** 40;
}

/** Files that say what a model is, read first; all but the first are left out where they are missing. */
const MODEL_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/** For sources that have no listing: what might be there. Weights are looked for in this order, and the first kind found is enough. */
export const CANDIDATES: Readonly<Record<SourceKind, { readonly required: readonly string[]; readonly optional: readonly string[]; readonly weights: readonly string[] }>> = {
  model: { required: ["config.json"], optional: MODEL_FILES.slice(1), weights: [INDEX, SINGLE] },
  adapter: { required: ["adapter_config.json"], optional: [], weights: ["adapter_model.safetensors", "adapter_model.bin"] },
};

export type Needed =
  | { readonly files: readonly string[]; /** An index that names further files, once it was read. */ readonly index: string | null; readonly missing: null }
  /** Names of which one at least would have to be there. */
  | { readonly missing: string };

/** @param names in the folder that is meant */
export function neededFiles(kind: SourceKind, names: ReadonlySet<string>): Needed {
  return kind === "model" ? modelFiles(names) : adapterFiles(names);
}

function modelFiles(names: ReadonlySet<string>): Needed {
  if (!names.has("config.json")) return { missing: "config.json" };
  const files = MODEL_FILES.filter((name) => names.has(name));
  // As the loader prefers them.
  if (names.has(SINGLE)) return { files: [...files, SINGLE], index: null, missing: null };
  if (names.has(INDEX)) return { files: [...files, INDEX], index: INDEX, missing: null };
  return { missing: `${SINGLE} or ${INDEX}` };
}

function adapterFiles(names: ReadonlySet<string>): Needed {
  const archives = [...names].filter((name) => ARCHIVE.test(name));
  if (!names.has("adapter_config.json")) {
    if (archives.length === 1) return { files: archives, index: null, missing: null };
    return { missing: archives.length > 1 ? "one .nemo archive alone" : "adapter_config.json or a .nemo archive" };
  }
  const weights = CANDIDATES.adapter.weights.find((name) => names.has(name));
  if (weights === undefined) return { missing: CANDIDATES.adapter.weights.join(" or ") };
  return { files: ["adapter_config.json", weights], index: null, missing: null };
}

/**
 * Files that an index names.
 *
 * @throws {FormatError} for one that is malformed, or names a file elsewhere
 */
export function shardsOf(index: Uint8Array): string[] {
  const map = parseJsonObject(index, INDEX_LIMITS)["weight_map"];
  const shards = new Set(typeof map === "object" && map !== null && !Array.isArray(map) ? Object.values(map as object) : []);
  const names = [...shards].filter((name): name is string => typeof name === "string" && SHARD.test(name));
  if (names.length === 0 || names.length !== shards.size || names.length > MAX_SHARDS) throw new FormatError(`weight_map must name 1 to ${MAX_SHARDS} .safetensors files of the same folder`);
  return names.sort();
}
