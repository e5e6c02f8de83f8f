/** Mixtures of experts: which layers have them, their operations, and both spellings of a checkpoint. */
import { describe, expect, test } from "bun:test";
import { ModelError } from "../../src/core/errors.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { openModel } from "../../src/model/load-model.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";
import { type ExpertSpelling, expertSpelling } from "../../src/model/sparse-mlp.ts";
import { encodeSafetensors, type Json, type TensorSpec, tinyConfig, writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

type Changes = Record<string, Json | undefined>;
const MIXTRAL = { architectures: ["MixtralForCausalLM"], model_type: "mixtral", num_local_experts: 4 };
const QWEN = { architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", num_experts: 6, num_experts_per_tok: 3, moe_intermediate_size: 12 };
const parse = (changes: Changes) => parseModelConfig(tinyConfig(changes));
const build = (changes: Changes, spelling?: ExpertSpelling) => buildDecoderProgram(parse(changes), spelling);

describe("the configuration", () => {
  test.each<[string, Changes, Record<string, Json>]>([
    ["Mixtral", MIXTRAL, { numExperts: 4, topK: 2, width: 20, normalize: true, sparse: [true, true] }],
    ["Mixtral's defaults", { ...MIXTRAL, num_local_experts: undefined }, { numExperts: 8, topK: 2 }],
    ["Qwen", QWEN, { numExperts: 6, topK: 3, width: 12, normalize: false, sparse: [true, true] }],
    ["Qwen's defaults", { ...QWEN, num_experts: undefined, num_experts_per_tok: undefined, moe_intermediate_size: undefined }, { numExperts: 128, topK: 8, width: 768 }],
    ["Qwen as transformers 5 spells it", { ...QWEN, num_experts: undefined, num_local_experts: 5, norm_topk_prob: true }, { numExperts: 5, normalize: true }],
    ["both spellings that agree", { ...QWEN, num_local_experts: 6 }, { numExperts: 6 }],
    ["every second layer", { ...QWEN, num_hidden_layers: 5, decoder_sparse_step: 2 }, { sparse: [false, true, false, true, false] }],
    ["all layers but some", { ...QWEN, num_hidden_layers: 3, mlp_only_layers: [0, 2] }, { sparse: [false, true, false] }],
    ["no list of dense layers", { ...QWEN, mlp_only_layers: null }, { sparse: [true, true] }],
  ])("of %s gives its experts", (_, changes, expected) => {
    expect(parse(changes).traits.experts).toMatchObject(expected);
  });

  test.each<[string, Changes]>([
    ["has no experts", { ...QWEN, num_experts: 0 }],
    ["names every layer dense", { ...QWEN, mlp_only_layers: [0, 1] }],
    ["has a step beyond its layers", { ...QWEN, decoder_sparse_step: 3 }],
  ])("that %s is a dense model", (_, changes) => {
    expect(parse(changes).traits.experts).toBeUndefined();
    expect(build(changes).routing).toBeUndefined();
  });

  test("of Mixtral turns positions at its own rate, and of Qwen has one window in every layer or none", () => {
    expect(parse({ ...MIXTRAL, rope_parameters: undefined }).rope.theta).toBe(1_000_000);
    expect(parse({ ...QWEN, rope_parameters: undefined }).rope.theta).toBe(10_000);
    expect(parse({ ...QWEN, sliding_window: 8 }).traits.windows).toEqual([null, null]);
    expect(parse({ ...QWEN, sliding_window: 8, use_sliding_window: true, max_window_layers: 1 }).traits.windows).toEqual([8, 8]);
  });

  test.each<[string, Changes, string]>([
    ["more experts a row than there are", { ...MIXTRAL, num_experts_per_tok: 5 }, "num_experts_per_tok in config.json must be a whole number from 1 to 4, got 5"],
    ["no expert", { ...MIXTRAL, num_local_experts: 0 }, "num_local_experts in config.json must be a whole number from 1 to 1024, got 0"],
    ["two numbers of experts", { ...QWEN, num_local_experts: 8 }, "num_experts in config.json must be equal to num_local_experts (8), which means the same, got 6"],
    ["a step of nothing", { ...QWEN, decoder_sparse_step: 0 }, "decoder_sparse_step in config.json must be a whole number from 1 to 1024, got 0"],
    ["dense layers by name", { ...QWEN, mlp_only_layers: ["first"] }, "mlp_only_layers in config.json must be an array of layer numbers, got an array"],
    ["shares as text", { ...QWEN, norm_topk_prob: "yes" }, 'norm_topk_prob in config.json must be true or false, got "yes"'],
  ])("is refused with %s", (_, changes, message) => {
    expect(thrownBy(() => parse(changes))).toMatchObject({ errorCode: "model_invalid", message });
  });
});

describe("the program", () => {
  test("routes rows between the norm and the residual stream, beside dense layers", () => {
    const program = build({ ...QWEN, decoder_sparse_step: 2 });
    const kinds = program.operations.map(({ kind }) => kind);
    expect(kinds.slice(kinds.lastIndexOf("attention"))).toEqual([
      "attention", "linear", "rmsNorm", "linear", "route", "expertLinear", "siluMul", "expertLinear", "combine", "gather", "rmsNorm", "linear", "sample",
    ]);
    expect(kinds.filter((kind) => kind === "siluMul").length).toBe(2);
    expect(program.routing).toEqual({ numExperts: 6, topK: 3 });
    expect(program.buffers.filter(({ rows }) => rows === "routed").map(({ name, width }) => [name, width])).toEqual([
      ["expert_gate_up", 24],
      ["expert_gated", 12],
      ["expert_outputs", 16],
    ]);
  });

  test("keeps no buffer for MLPs that no layer has", () => {
    const names = build(MIXTRAL).buffers.map(({ name }) => name);
    expect(names).not.toContain("gate_up");
    expect(build(QWEN).buffers.map(({ name }) => name)).toEqual(names);
  });

  test("has a site per expert, in the order of the experts, and one for the router under both its names", () => {
    const { sites, operations } = build(MIXTRAL);
    const [gateUp] = operations.filter(({ kind }) => kind === "expertLinear");
    const own = sites.slice((gateUp as { site: number }).site).slice(0, 4);
    expect(own.map(({ expert }) => expert)).toEqual([0, 1, 2, 3]);
    expect(own[1]!.modules.map(({ path, offset, width }) => [path, offset, width])).toEqual([
      ["model.layers.0.block_sparse_moe.experts.1.w1", 0, 20],
      ["model.layers.0.block_sparse_moe.experts.1.w3", 20, 20],
      ["model.layers.0.block_sparse_moe.experts.1.gate_up_proj", 0, 40],
    ]);
    const routers = sites.filter(({ name }) => name.endsWith("gate"));
    expect(routers[0]!.modules.map(({ path, own: isOwn }) => [path, isOwn])).toEqual([
      ["model.layers.0.block_sparse_moe.gate", true],
      ["model.layers.0.mlp.gate", false],
    ]);
  });
});

describe("a checkpoint", () => {
  const specs = (changes: Changes, spelling: ExpertSpelling): Record<string, TensorSpec> =>
    Object.fromEntries(
      build(changes, spelling).weights.flatMap(({ kind, cols, parts }) =>
        parts.map(({ tensor, rows, shape }) => [tensor, { shape: shape ?? (kind === "vector" ? [rows] : [rows, cols]) }]),
      ),
    );
  const open = (changes: Changes, tensors: Record<string, TensorSpec>) =>
    openModel(writeDirectory({ "config.json": tinyConfig(changes), "model.safetensors": encodeSafetensors(tensors) }));

  test.each<[string, Changes, ExpertSpelling, string, string]>([
    ["Mixtral by experts", MIXTRAL, "tensor-per-expert", "model.layers.1.block_sparse_moe.experts.3.w3.weight", "model.layers.1.block_sparse_moe.gate.weight"],
    ["Mixtral by layers", MIXTRAL, "parameter-per-layer", "model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.gate.weight"],
    ["Qwen by experts", QWEN, "tensor-per-expert", "model.layers.1.mlp.experts.5.up_proj.weight", "model.layers.1.mlp.gate.weight"],
    ["Qwen by layers", QWEN, "parameter-per-layer", "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.gate.weight"],
  ])("is known by its tensors: %s", (_, changes, spelling, expert, router) => {
    const tensors = specs(changes, spelling);
    expect(Object.keys(tensors)).toContain(expert);
    expect(Object.keys(tensors)).toContain(router);
    expect(expertSpelling(Object.keys(tensors))).toBe(spelling);
    expect(open(changes, tensors).program.weights).toEqual(build(changes, spelling).weights);
  });

  test("must have parameters in the shape of the configuration", () => {
    const tensors = { ...specs(MIXTRAL, "parameter-per-layer"), "model.layers.0.mlp.experts.down_proj": { shape: [4, 20, 16] } };
    const thrown = thrownBy(() => open(MIXTRAL, tensors));
    expect(thrown).toBeInstanceOf(ModelError);
    expect((thrown as ModelError).message).toBe("tensor model.layers.0.mlp.experts.down_proj has shape [4, 20, 16], but config.json asks for [4, 16, 20]");
  });

  test("must have every expert, and no more", () => {
    const { "model.layers.0.mlp.experts.2.up_proj.weight": _, ...cut } = specs(QWEN, "tensor-per-expert");
    expect(() => open(QWEN, cut)).toThrow("tensor model.layers.0.mlp.experts.2.up_proj.weight of shape [12, 16] is missing");
    expect(() => open({ ...QWEN, num_experts: 5 }, { ...specs({ ...QWEN, num_experts: 5 }, "tensor-per-expert"), "model.layers.0.mlp.experts.5.up_proj.weight": { shape: [12, 16] } })).toThrow(
      "hold tensor model.layers.0.mlp.experts.5.up_proj.weight",
    );
  });
});
