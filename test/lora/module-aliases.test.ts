import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { Tensor } from "../../src/formats/safetensors.ts";
import type { AdapterConfig, ModuleNames } from "../../src/lora/adapter-config.ts";
import { moduleAliases, renameModules } from "../../src/lora/module-aliases.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { fixtureProgram } from "../helpers/adapter-files.ts";

const dense = fixtureProgram("base_llama");
const experts = buildDecoderProgram(readModelConfig(join(import.meta.dir, "../fixtures/experts/mixtral")));

const configWith = (targetModules: ModuleNames): AdapterConfig =>
  ({ targetModules, excludeModules: null, rankPattern: [["wq", 2]], alphaPattern: [], layersPattern: ["h"] }) as unknown as AdapterConfig;
const names = (...each: string[]): ModuleNames => ({ kind: "names", names: each });
const tensorsOf = (...keys: string[]) => new Map(keys.map((key) => [key, {} as Tensor]));
const renamed = (map: Readonly<Record<string, readonly string[]>>, config: AdapterConfig, keys: readonly string[], program = dense) => {
  const result = renameModules(config, tensorsOf(...keys), program, moduleAliases(map));
  return { config: result.config, keys: [...result.tensors.keys()] };
};

describe("names of another architecture", () => {
  test.each([
    [{ attn_q: ["wq"] }, "base_model.model.transformer.h.1.attn.wq.lora_A.weight", "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"],
    [{ attn_q: ["attn.wq"] }, "base_model.model.transformer.h.0.attn.wq.lora_B.default.weight", "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"],
    [{ attn_qkv: ["W_pack", "query_key_value"] }, "x.layers.0.query_key_value.lora_magnitude_vector", "base_model.model.model.layers.0.self_attn.qkv_proj.lora_magnitude_vector"],
    [{ attn_q: ["mlp.wq"] }, "x.h.0.attn.wq.lora_A.weight", "x.h.0.attn.wq.lora_A.weight"],
    [{ attn_q: ["wq"] }, "x.h.9.attn.wq.lora_A.weight", "x.h.9.attn.wq.lora_A.weight"],
    [{ mlp_gate: ["gate_proj"], mlp_h_to_4h: ["up_proj"] }, "x.h.0.mlp.up_proj.lora_A.weight", "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight"],
  ])("by %p: %s", (map, key, expected) => {
    expect(renamed(map, configWith(names("wq")), [key]).keys).toEqual([expected]);
  });

  test("of experts keep their number", () => {
    const key = (module: string): string => `base_model.model.model.layers.1.block_sparse_moe.experts.2.${module}.lora_A.weight`;
    expect(renamed({ moe_h_to_4h: ["fc_in"] }, configWith(names("fc_in")), [key("fc_in"), key("w2")], experts)).toMatchObject({
      config: { targetModules: names("w1", "gate_proj") },
      keys: [key("w1"), key("w2")],
    });
  });

  test("change the configuration with the tensors, and nothing where no tensor has one", () => {
    const key = "x.h.0.attn.wq.lora_A.weight";
    expect(renamed({ attn_q: ["attn.wq"] }, configWith(names("wq", "o_proj")), [key]).config).toMatchObject({
      targetModules: names("q_proj", "o_proj"), rankPattern: [["q_proj", 2]], layersPattern: null,
    });
    const byPattern = configWith({ kind: "pattern", pattern: ".*wq" });
    expect(renamed({ attn_q: ["wq"] }, byPattern, [key]).config.targetModules).toEqual(names("model.layers.0.self_attn.q_proj"));
    const plain = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    expect(renamed({ attn_q: ["wq"] }, byPattern, [plain])).toEqual({ config: byPattern, keys: [plain] });
  });
});

test("a map of the base's own names is no map", () => {
  expect(moduleAliases({ attn_q: ["q_proj"], mlp_gate: ["up_proj"], moe_h_to_4h: ["gate_proj", "w1"], cross_attn_q: ["wq"], moe_router: ["gate"] })).toEqual([]);
});
