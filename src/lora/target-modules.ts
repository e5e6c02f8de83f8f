/** Which modules adapters may change: `lora_target_modules`, in TensorRT-LLM's names. */
import { ConfigError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";
import type { LoraSite, SiteModule } from "../model/program.ts";

/** Last part of the module's path, by TensorRT-LLM's name of it; `mlp_gate` really is the up projection there. */
const MODULES: Readonly<Record<string, string>> = {
  attn_qkv: "qkv_proj",
  attn_q: "q_proj",
  attn_k: "k_proj",
  attn_v: "v_proj",
  attn_dense: "o_proj",
  mlp_h_to_4h: "gate_proj",
  mlp_4h_to_h: "down_proj",
  mlp_gate: "up_proj",
  mlp_gate_up: "gate_up_proj",
};

/** Last parts of module paths. */
export type TargetModules = ReadonlySet<string>;

/**
 * @param names none allows every module
 * @throws {ConfigError} `config_invalid` for a name that no model served here has
 */
export function targetModules(names: readonly string[]): TargetModules | null {
  const known = Object.keys(MODULES);
  const parts = names.map((name) => {
    if (Object.hasOwn(MODULES, name)) return MODULES[name]!;
    throw new ConfigError(
      "config_invalid",
      `lora_target_modules must be among ${known.join(", ")}, got ${JSON.stringify(name.slice(0, 40))}${didYouMean(name, known)}`,
      { field: "lora_target_modules" },
    );
  });
  return parts.length === 0 ? null : new Set(parts);
}

/** Whether every output of `module` is one of an allowed module's: fused and split names mean the same outputs. */
export function isAllowed({ modules }: LoraSite, module: SiteModule, allowed: TargetModules): boolean {
  const end = module.offset + module.width;
  const open = modules.filter(({ path }) => allowed.has(path.slice(path.lastIndexOf(".") + 1)));
  let reached = module.offset;
  for (const { offset, width } of open.toSorted((a, b) => a.offset - b.offset)) {
    if (offset <= reached) reached = Math.max(reached, offset + width);
  }
  return reached >= end;
}
