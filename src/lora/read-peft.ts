/** PEFT's directory: `adapter_config.json`, and the weights as safetensors or as a torch file. */
import { join } from "node:path";
import { parseJsonObject } from "../formats/json.ts";
import { parseSafetensors, type Tensor } from "../formats/safetensors.ts";
import { parseTorch } from "../formats/torch-file.ts";
import { toFloatTensor } from "../formats/torch-tensor.ts";
import type { Program } from "../model/program.ts";
import { parseAdapterConfig } from "./adapter-config.ts";
import { inFile, MAX_WEIGHTS_BYTES, readBounded } from "./adapter-files.ts";
import type { AdapterWeights } from "./adapter-weights.ts";
import type { AdapterLimits } from "./assemble-adapter.ts";
import { renameModules } from "./module-aliases.ts";
import { translatePeft } from "./translate-peft.ts";

export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";
/** What PEFT wrote before safetensors, and still writes when asked to. */
export const PICKLE_FILE = "adapter_model.bin";
export const CONFIG_LIMITS = { maxBytes: 64 * 1024, maxDepth: 16 };

/** @param names of the files in the directory: the configuration, and one of the two kinds of weights */
export async function readPeft(
  directory: string,
  names: ReadonlySet<string>,
  program: Program,
  limits: AdapterLimits,
): Promise<AdapterWeights> {
  const json = await readBounded(join(directory, CONFIG_FILE), CONFIG_FILE, CONFIG_LIMITS.maxBytes, limits.within);
  const config = parseAdapterConfig(inFile(CONFIG_FILE, () => parseJsonObject(json, CONFIG_LIMITS)));
  // As PEFT does where both are there.
  const name = names.has(WEIGHTS_FILE) ? WEIGHTS_FILE : PICKLE_FILE;
  const bytes = await readBounded(join(directory, name), name, MAX_WEIGHTS_BYTES, limits.within);
  const { tensors, warnings } = inFile(name, () => (name === WEIGHTS_FILE ? { tensors: parseSafetensors(bytes), warnings: [] } : readPickled(bytes)));
  const named = renameModules(config, tensors, program, limits.aliases ?? []);
  return translatePeft({ ...named.config, warnings: [...config.warnings, ...warnings] }, named.tensors, program, limits);
}

/** Tensors of a torch file as floats, and what was rounded. */
function readPickled(bytes: Uint8Array): { tensors: Map<string, Tensor>; warnings: readonly string[] } {
  const raw = parseTorch(bytes);
  const numRounded = [...raw.values()].filter(({ dtype }) => dtype === "F64").length;
  return {
    tensors: new Map([...raw].map(([name, tensor]) => [name, toFloatTensor(name, tensor)])),
    warnings: numRounded === 0 ? [] : [`${PICKLE_FILE} has ${numRounded} tensors in float64, which were rounded to float32`],
  };
}
