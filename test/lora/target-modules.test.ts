import { describe, expect, test } from "bun:test";
import { isAllowed, targetModules } from "../../src/lora/target-modules.ts";

const at = (name: string, offset: number, width: number) => ({ path: `model.layers.0.self_attn.${name}`, offset, width, own: true });
const modules = [at("qkv_proj", 0, 12), at("q_proj", 0, 8), at("k_proj", 8, 2), at("v_proj", 10, 2)];
const site = { name: "qkv", layer: 0, inWidth: 8, outWidth: 12, modules };

describe("lora_target_modules", () => {
  test.each([
    [["attn_q"], ["q_proj"]],
    [["attn_qkv"], ["qkv_proj", "q_proj", "k_proj", "v_proj"]],
    [["attn_q", "attn_v"], ["q_proj", "v_proj"]],
    [["attn_v", "attn_q", "attn_k"], ["qkv_proj", "q_proj", "k_proj", "v_proj"]],
    [["attn_dense"], []],
  ])("of %p let the modules %p be changed, fused or split", (names, allowed) => {
    const open = modules.filter((module) => isAllowed(site, module, targetModules(names)!));
    expect(open.map(({ path }) => path.split(".").at(-1)!)).toEqual(allowed);
  });

  test.each([
    [["moe_h_to_4h"], ["w1"]],
    [["moe_gate", "moe_h_to_4h"], ["w1", "w3", "gate_up_proj"]],
    [["mlp_gate_up", "mlp_gate", "mlp_h_to_4h", "moe_router"], []],
  ])("of %p let the modules %p of an expert be changed", (names, allowed) => {
    const expert = [["w1", 0, 5], ["w3", 5, 5], ["gate_up_proj", 0, 10]] as const;
    const expertSite = { ...site, expert: 3, modules: expert.map(([name, offset, width]) => at(name, offset, width)) };
    const open = expertSite.modules.filter((module) => isAllowed(expertSite, module, targetModules(names)!));
    expect(open.map(({ path }) => path.split(".").at(-1)!)).toEqual(allowed);
  });

  test("of no name let all be changed", () => {
    expect(targetModules([])).toBeNull();
  });

  test("refuse a name that means none of the modules served", () => {
    expect(() => targetModules(["q_proj"])).toThrow('lora_target_modules must be among attn_qkv, attn_q, attn_k');
    expect(() => targetModules(["moe_latent_fc1"])).toThrow('got "moe_latent_fc1"');
  });
});
