/** Which modules adapters may change: `lora_target_modules`, in TensorRT-LLM's names. */
import { ConfigError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";
import type { LoraSite, SiteModule } from "../model/program.ts";

/**
 * Last part of the module's path, behind `experts.` for one of an expert, by TensorRT-LLM's name of it; `mlp_gate` and
 * `moe_gate` really are the up projections there.
 */
export const MODULES: Readonly<Record<string, readonly string[]>> = {
  attn_qkv: ["qkv_proj"],
  attn_q: ["q_proj"],
  attn_k: ["k_proj"],
  attn_v: ["v_proj"],
  attn_dense: ["o_proj"],
  mlp_h_to_4h: ["gate_proj"],
  mlp_4h_to_h: ["down_proj"],
  mlp_gate: ["up_proj"],
  mlp_gate_up: ["gate_up_proj"],
  moe_h_to_4h: ["experts.w1", "experts.gate_proj"],
  moe_4h_to_h: ["experts.w2", "experts.down_proj"],
  moe_gate: ["experts.w3", "experts.up_proj"],
  moe_router: ["gate"],
};

/** Names of modules as `nameOf` gives them. */
export type TargetModules = ReadonlySet<string>;

/**
 * @param names none allows every module
 * @throws {ConfigError} `config_invalid` for a name that no model served here has
 */
export function targetModules(names: readonly string[]): TargetModules | null {
  const known = Object.keys(MODULES);
  const parts = names.flatMap((name) => {
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
export function isAllowed(site: LoraSite, module: SiteModule, allowed: TargetModules): boolean {
  const end = module.offset + module.width;
  const open = site.modules.filter(({ path }) => allowed.has(nameOf(site, path)));
  let reached = module.offset;
  for (const { offset, width } of open.toSorted((a, b) => a.offset - b.offset)) {
    if (offset <= reached) reached = Math.max(reached, offset + width);
  }
  return reached >= end;
}

/** Last part of a module's path, behind `experts.` for one of an expert. */
export const nameOf = ({ expert }: LoraSite, path: string): string => `${expert === undefined ? "" : "experts."}${path.slice(path.lastIndexOf(".") + 1)}`;
