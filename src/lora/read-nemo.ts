/** A `.nemo` archive: a tar file with a configuration and the weights of every rank. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import { parseTar } from "../formats/tar.ts";
import { parseTorch } from "../formats/torch-file.ts";
import { toFloatTensor } from "../formats/torch-tensor.ts";
import { parseYaml } from "../formats/yaml.ts";
import type { Program } from "../model/program.ts";
import { inFile, MAX_WEIGHTS_BYTES, readBounded } from "./adapter-files.ts";
import type { AdapterWeights } from "./adapter-weights.ts";
import type { AdapterLimits } from "./assemble-adapter.ts";
import { parseNemoConfig, type QkvLayout } from "./nemo-config.ts";
import { isExtraState } from "./nemo-keys.ts";
import { type NemoRank, translateNemo } from "./translate-nemo.ts";

export const CONFIG_MEMBER = "model_config.yaml";
const WEIGHTS_MEMBER = "model_weights.ckpt";
export const NEMO_CONFIG_LIMITS = { maxBytes: 256 * 1024, maxDepth: 16 };

/** `mp_rank_T` where layers are not divided among ranks, else `tp_rank_T_pp_rank_P`. */
const RANK_MEMBER = /^(?:mp_rank_([0-9]{2,4})|tp_rank_([0-9]{2,4})_pp_rank_([0-9]{3,4}))\/model_weights\.ckpt$/;

/** @throws {AdapterError} `adapter_invalid`, `adapter_unsupported` or `adapter_too_large` */
export async function readNemo(
  path: string,
  program: Program,
  options: AdapterLimits & { readonly nemoQkvLayout?: QkvLayout | "auto" | undefined },
): Promise<AdapterWeights> {
  const bytes = await readBounded(path, "the .nemo archive", MAX_WEIGHTS_BYTES, options.within);
  const members = inFile("the .nemo archive", () => parseTar(bytes));
  const yaml = members.get(CONFIG_MEMBER);
  if (yaml === undefined) throw new AdapterError("adapter_invalid", `the .nemo archive has no ${CONFIG_MEMBER}`);
  const config = parseNemoConfig(
    inFile(CONFIG_MEMBER, () => parseYaml(yaml, NEMO_CONFIG_LIMITS)),
    program,
    options.nemoQkvLayout ?? "auto",
  );
  return translateNemo(config, ranksOf(members), program, options);
}

function ranksOf(members: ReadonlyMap<string, Uint8Array>): NemoRank[] {
  const ranks: NemoRank[] = [];
  for (const [name, bytes] of members) {
    if (!name.endsWith(".ckpt")) continue;
    const match = name === WEIGHTS_MEMBER ? [] : RANK_MEMBER.exec(name);
    if (match === null) {
      throw new AdapterError("adapter_invalid", `the .nemo archive has the weights ${quoted(name)}; they are ${WEIGHTS_MEMBER}, alone or in mp_rank_00 and so on`);
    }
    const raw = inFile(name, () => parseTorch(bytes, isExtraState));
    ranks.push({
      tensorRank: Number(match[1] ?? match[2] ?? 0),
      pipelineRank: Number(match[3] ?? 0),
      tensors: inFile(name, () => new Map([...raw].map(([key, tensor]) => [key, toFloatTensor(key, tensor)]))),
    });
  }
  if (ranks.length === 0) throw new AdapterError("adapter_invalid", `the .nemo archive has no ${WEIGHTS_MEMBER}`);
  return ranks;
}
