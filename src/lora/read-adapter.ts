/** Reads an adapter's directory into memory, bounded, and translates it. */
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { AdapterError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { parseJsonObject } from "../formats/json.ts";
import { parseSafetensors } from "../formats/safetensors.ts";
import type { Program } from "../model/program.ts";
import { parseAdapterConfig } from "./adapter-config.ts";
import type { AdapterWeights } from "./adapter-weights.ts";
import { type AdapterLimits, translatePeft } from "./translate-peft.ts";

const CONFIG_FILE = "adapter_config.json";
const WEIGHTS_FILE = "adapter_model.safetensors";
const MAX_CONFIG_BYTES = 64 * 1024;
const MAX_CONFIG_DEPTH = 16;
const MAX_WEIGHTS_BYTES = 2 * 1024 ** 3;

/**
 * @throws {AdapterError} `adapter_invalid`, `adapter_unsupported` or `adapter_too_large`; a failing disk passes
 *   through as the system's own error, which a caller may try again
 */
export async function readAdapter(directory: string, program: Program, limits: AdapterLimits = {}): Promise<AdapterWeights> {
  await checkForm(directory);
  const json = await readBounded(directory, CONFIG_FILE, MAX_CONFIG_BYTES);
  const config = parseAdapterConfig(
    inFile(CONFIG_FILE, () => parseJsonObject(json, { maxBytes: MAX_CONFIG_BYTES, maxDepth: MAX_CONFIG_DEPTH })),
  );
  const bytes = await readBounded(directory, WEIGHTS_FILE, MAX_WEIGHTS_BYTES);
  const tensors = inFile(WEIGHTS_FILE, () => parseSafetensors(bytes));
  return translatePeft(config, tensors, program, limits);
}

/** Says what a directory is when it is not what can be served. */
async function checkForm(directory: string): Promise<void> {
  const names = new Set(await list(directory));
  if (names.has(CONFIG_FILE) && names.has(WEIGHTS_FILE)) return;
  if (names.has(CONFIG_FILE) && names.has("adapter_model.bin")) {
    throw new AdapterError(
      "adapter_unsupported",
      "adapter_model.bin is a pickle, which is not served yet; save the adapter as safetensors (PEFT's default)",
    );
  }
  if ([...names].some((name) => name.endsWith(".nemo"))) {
    throw new AdapterError("adapter_unsupported", "a .nemo archive is not served yet; convert the adapter to PEFT's format");
  }
  if (names.has("adapter_metadata.json") || (names.has("context") && names.has("weights"))) {
    throw new AdapterError(
      "adapter_unsupported",
      "a NeMo 2 checkpoint is not served; export it with llm.export_ckpt(target=\"hf-peft\")",
    );
  }
  const missing = [CONFIG_FILE, WEIGHTS_FILE].filter((name) => !names.has(name));
  throw new AdapterError("adapter_invalid", `the adapter's directory has no ${missing.join(" and no ")}`, { details: { directory } });
}

async function list(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (cause) {
    const problem = codeOf(cause) === "ENOENT" ? "does not exist" : codeOf(cause) === "ENOTDIR" ? "is not a directory" : null;
    if (problem === null) throw cause;
    throw new AdapterError("adapter_invalid", `the adapter's path ${problem}`, { cause, details: { directory } });
  }
}

/** Reads into memory of our own: a file that changes meanwhile cannot change what was checked. */
async function readBounded(directory: string, name: string, maxBytes: number): Promise<Uint8Array> {
  const file = await open(join(directory, name), "r");
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new AdapterError("adapter_invalid", `${name} is not a regular file`);
    if (stat.size > maxBytes) {
      throw new AdapterError("adapter_too_large", `${name} has ${stat.size} bytes; at most ${maxBytes} are read`);
    }
    const bytes = new Uint8Array(stat.size);
    let done = 0;
    while (done < bytes.length) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, done);
      if (bytesRead === 0) throw new AdapterError("adapter_invalid", `${name} became shorter while it was read`);
      done += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

function inFile<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (thrown) {
    if (!(thrown instanceof FormatError)) throw thrown;
    throw new AdapterError("adapter_invalid", `${name}: ${thrown.message}`, { cause: thrown });
  }
}

const codeOf = (thrown: unknown): unknown => (thrown instanceof Error && "code" in thrown ? thrown.code : undefined);
