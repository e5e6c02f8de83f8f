/** Reads an adapter in any form that is served: PEFT's directory, or a NeMo archive. */
import { basename, join } from "node:path";
import { AdapterError } from "../core/errors.ts";
import type { Program } from "../model/program.ts";
import { listAdapter } from "./adapter-files.ts";
import type { AdapterWeights } from "./adapter-weights.ts";
import type { AdapterLimits } from "./assemble-adapter.ts";
import type { QkvLayout } from "./nemo-config.ts";
import { CONFIG_FILE, PICKLE_FILE, readPeft, WEIGHTS_FILE } from "./read-peft.ts";
import { readNemo } from "./read-nemo.ts";

/** `lora_ckpt_source`: `hf` takes what the files are, `nemo` takes NeMo archives only. */
export type CheckpointSource = "hf" | "nemo";

export interface ReadOptions extends AdapterLimits {
  readonly source?: CheckpointSource | undefined;
  /** Order of fused query, key and value rows in NeMo archives; `auto` or left out to decide by the archive. */
  readonly nemoQkvLayout?: QkvLayout | "auto" | undefined;
}

/**
 * @param path PEFT's directory, a `.nemo` file, or a directory with one
 * @throws {AdapterError} `adapter_invalid`, `adapter_unsupported` or `adapter_too_large`; a failing disk passes
 *   through as the system's own error, which a caller may try again
 */
export async function readAdapter(path: string, program: Program, options: ReadOptions = {}): Promise<AdapterWeights> {
  const found = await locateAdapter(path, options.source);
  return found.format === "peft"
    ? await readPeft(found.directory, found.names, program, options)
    : await readNemo(found.archive, program, options);
}

export type LocatedAdapter =
  | { readonly format: "peft"; readonly directory: string; readonly names: ReadonlySet<string> }
  | { readonly format: "nemo"; readonly archive: string };

/**
 * Which form lies at a path, by the names of its files alone.
 *
 * @throws {AdapterError} `adapter_invalid` or `adapter_unsupported`
 */
export async function locateAdapter(path: string, source?: CheckpointSource): Promise<LocatedAdapter> {
  const names = await listAdapter(path);
  if (names === null) {
    if (path.endsWith(".nemo")) return { format: "nemo", archive: path };
    throw new AdapterError("adapter_invalid", "the adapter's path is not a directory, nor a .nemo file", { details: { path } });
  }
  const archives = [...names].filter((name) => name.endsWith(".nemo"));
  if (names.has(CONFIG_FILE) && source !== "nemo") {
    if (names.has(WEIGHTS_FILE) || names.has(PICKLE_FILE)) return { format: "peft", directory: path, names };
    throw missing(path, [WEIGHTS_FILE]);
  }
  if (archives.length === 1) return { format: "nemo", archive: join(path, archives[0]!) };
  if (archives.length > 1) {
    throw new AdapterError("adapter_invalid", `the adapter's directory holds ${archives.length} .nemo archives; name one of them`, { details: { path } });
  }
  if (names.has("adapter_metadata.json") || (names.has("context") && names.has("weights"))) {
    throw new AdapterError(
      "adapter_unsupported",
      "a NeMo 2 checkpoint is not served; export it with llm.export_ckpt(target=\"hf-peft\")",
    );
  }
  if (source === "nemo") {
    const problem = names.has(CONFIG_FILE) ? "a PEFT adapter; leave lora_ckpt_source out to serve it" : "without a .nemo archive";
    throw new AdapterError("adapter_invalid", `lora_ckpt_source is nemo, but ${basename(path)} is a directory ${names.has(CONFIG_FILE) ? "of " : ""}${problem}`, {
      field: "lora_ckpt_source",
    });
  }
  throw missing(path, [CONFIG_FILE, WEIGHTS_FILE].filter((name) => !names.has(name)));
}

const missing = (path: string, names: readonly string[]): AdapterError =>
  new AdapterError("adapter_invalid", `the adapter's directory has no ${names.join(" and no ")}`, { details: { path } });
