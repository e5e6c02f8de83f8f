/**
 * Adapters that name modules otherwise than the base does: `trtllm_modules_to_hf_modules`.
 *
 * TensorRT-LLM looks a module up by what follows the layer's number: `self_attention.query_key_value` or its last part.
 * Here such names become the base's own before anything else looks at them.
 */
import { ConfigError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";
import type { Tensor } from "../formats/safetensors.ts";
import type { Program } from "../model/program.ts";
import type { AdapterConfig, ModuleNames } from "./adapter-config.ts";
import { MODULES, nameOf } from "./target-modules.ts";

export interface ModuleAlias {
  /** As adapters' files have it: the last part of a module's path, or the last two. */
  readonly alias: string;
  /** As `nameOf` gives the base's own names, in any of its spellings. */
  readonly names: readonly string[];
}

/** Further names of TensorRT-LLM, of modules that no base served here has. A map may hold them. */
const OTHER_MODULES = [
  "cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense", "mlp_router",
  "shared_expert_h_to_4h", "shared_expert_4h_to_h", "shared_expert_gate", "mamba_in_proj", "mamba_out_proj",
  "moe_latent_fc1", "moe_latent_fc2",
];

/** @throws {ConfigError} `config_invalid` for a name that TensorRT-LLM does not have */
export function moduleAliases(map: Readonly<Record<string, readonly string[]>>): readonly ModuleAlias[] {
  return Object.entries(map).flatMap(([name, aliases]) => {
    const names = Object.hasOwn(MODULES, name) ? MODULES[name]! : null;
    if (names === null && !OTHER_MODULES.includes(name)) {
      const known = [...Object.keys(MODULES), ...OTHER_MODULES];
      throw new ConfigError(
        "config_invalid",
        `trtllm_modules_to_hf_modules maps ${JSON.stringify(name.slice(0, 40))}, which is no module's name${didYouMean(name, known)}; ` +
          `they are ${known.join(", ")}`,
        { field: "lora_config.trtllm_modules_to_hf_modules" },
      );
    }
    if (names === null) return [];
    const own = new Set(names.map(lastPart));
    return aliases.filter((alias) => !own.has(alias)).map((alias) => ({ alias, names }));
  });
}

/** @returns the same adapter in the base's names; names that no alias is for stay as they are */
export function renameModules(
  config: AdapterConfig,
  tensors: ReadonlyMap<string, Tensor>,
  program: Program,
  aliases: readonly ModuleAlias[],
): { readonly config: AdapterConfig; readonly tensors: ReadonlyMap<string, Tensor> } {
  if (aliases.length === 0) return { config, tensors };
  const found = new Set<string>();
  let isRenamed = false;
  const renamed = [...tensors].map(([name, tensor]): [string, Tensor] => {
    const { layer, module, rest } = LAYER_TENSOR.exec(name)?.groups ?? {};
    if (layer === undefined || module === undefined || rest === undefined) return [name, tensor];
    const known = aliasOf(module, aliases);
    const path = known === undefined ? undefined : pathOf(program, Number(layer), module, known);
    if (path === undefined) return [name, tensor];
    isRenamed = true;
    found.add(path);
    return [`base_model.model.${path}${rest}`, tensor];
  });
  if (!isRenamed) return { config, tensors };
  return { config: renamedConfig(config, aliases, found), tensors: new Map(renamed) };
}

const LAYER_TENSOR = /\.(?<layer>\d+)\.(?<module>[\w.]+?)(?<rest>\.(?:lora_|weight_m_wdecomp\.).*)$/;

const lastPart = (name: string): string => name.slice(name.lastIndexOf(".") + 1);

/** The alias that a module's path ends in, the longer before the shorter. */
function aliasOf(module: string, aliases: readonly ModuleAlias[]): ModuleAlias | undefined {
  const parts = module.split(".");
  for (const name of [module, parts.slice(-2).join("."), parts.at(-1)!]) {
    const known = aliases.find(({ alias }) => alias === name);
    if (known !== undefined) return known;
  }
  return undefined;
}

function pathOf(program: Program, layer: number, module: string, { names }: ModuleAlias): string | undefined {
  const expert = /(?:^|\.)experts\.(\d+)\./.exec(module)?.[1];
  for (const site of program.sites) {
    if (site.layer !== layer || site.expert !== (expert === undefined ? undefined : Number(expert))) continue;
    const found = site.modules.find(({ path }) => names.includes(nameOf(site, path)));
    if (found !== undefined) return found.path;
  }
  return undefined;
}

/** A pattern is for the file's own paths, so what the file holds takes its place. */
function renamedConfig(config: AdapterConfig, aliases: readonly ModuleAlias[], found: ReadonlySet<string>): AdapterConfig {
  // `wq` of a configuration is `attention.wq` of a map.
  const rename = (name: string): readonly string[] =>
    (aliasOf(name, aliases) ?? aliases.find(({ alias }) => alias.endsWith(`.${name}`)))?.names.map(lastPart) ?? [name];
  const names = (given: ModuleNames): ModuleNames => {
    if (given.kind === "pattern") return { kind: "names", names: [...found] };
    return given.kind === "names" ? { kind: "names", names: given.names.flatMap(rename) } : given;
  };
  return {
    ...config,
    targetModules: names(config.targetModules),
    excludeModules: config.excludeModules?.kind === "names" ? names(config.excludeModules) : config.excludeModules,
    rankPattern: config.rankPattern.flatMap(([pattern, rank]) => rename(pattern).map((name) => [name, rank] as const)),
    alphaPattern: config.alphaPattern.flatMap(([pattern, alpha]) => rename(pattern).map((name) => [name, alpha] as const)),
    layersPattern: null,
  };
}
