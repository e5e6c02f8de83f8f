/** Forward programs as the CUDA engine runs them, one readable line per kernel. */
import { describe, expect, test } from "bun:test";
import { LAUNCH, LAUNCH_OP, LAUNCH_WORDS } from "../../src/backend/cuda/layout.ts";
import { lowerProgram, moduleBorders, siteKinds } from "../../src/backend/cuda/lower-program.ts";
import { ModelError } from "../../src/core/errors.ts";
import type { Program } from "../../src/model/program.ts";
import { expertProgram, MIXTRAL } from "../helpers/expert-programs.ts";
import { thrownBy } from "../helpers/thrown.ts";
import { TINY, type TinyShape, tinyProgram } from "../helpers/tiny-program.ts";

type Field = keyof typeof LAUNCH;
const OPS = Object.entries(LAUNCH_OP);

/** Fields that are -1 or 0 are left out, so that each line says what its kernel does. */
function lines(program: Program): string[] {
  const { launches } = lowerProgram(program);
  expect(launches.length % LAUNCH_WORDS).toBe(0);
  return Array.from({ length: launches.length / LAUNCH_WORDS }, (_, i) => {
    const words = launches.subarray(i * LAUNCH_WORDS, (i + 1) * LAUNCH_WORDS);
    const at = (field: Field): number => words[LAUNCH[field]]!;
    const buffer = (field: Field) => program.buffers[at(field)]?.name;
    const weight = (field: Field) => (at(field) < 0 ? undefined : program.weights[at(field)]!.name);
    const site = (field: Field) => (at(field) < 0 ? undefined : program.sites[at(field)]!.name);
    const part = (label: string, value: string | number | undefined) => (value === undefined ? [] : [`${label} ${value}`]);
    const op = OPS.find(([, value]) => value === at("op"))![0];
    const eps = at("eps") <= 0 ? undefined : new Float32Array(Int32Array.of(at("eps")).buffer)[0]!.toPrecision(1);
    return [
      op,
      ...part("x", buffer("x")),
      ...part("out", buffer("out")),
      ...part("weight", weight("weight")),
      ...part("site", site("site")),
      ...part("routes", buffer("routes")),
      ...part("q", weight("qNorm")),
      ...part("at", site("qNormSite")),
      ...part("k", weight("kNorm")),
      ...part("at", site("kNormSite")),
      ...part("+bias", weight("pendingBias")),
      ...part("+delta", site("pendingSite")),
      ...(at("accumulate") === 1 ? ["accumulate"] : []),
      ...(at("normalize") === 1 ? ["normalize"] : []),
      ...(at("sampledRows") === 1 ? ["sampled rows"] : []),
      ...part("layer", at("layer") < 0 ? undefined : at("layer")),
      ...part("window", at("window") <= 0 ? undefined : at("window")),
      ...part("eps", eps),
    ].join(", ");
  });
}

const one = (changes: Partial<TinyShape> = {}): Program => tinyProgram({ ...TINY, layers: 1, ...changes });

describe("a layer", () => {
  test("adds each delta where its site's output is read, and gathers within the last norm", () => {
    expect(lines(one())).toEqual([
      "embed, out residual, weight embed, site embed",
      "rmsNorm, x residual, out normed, weight norm1.0, site norm1.0, eps 0.00001",
      "linear, x normed, out qkv, weight layers.0.qkv, site layers.0.qkv",
      "ropeKvWrite, x qkv, +delta layers.0.qkv, layer 0",
      "attention, x qkv, out attended, layer 0",
      "linear, x attended, out residual, weight layers.0.o, site layers.0.o, accumulate",
      "rmsNorm, x residual, out normed, weight norm2.0, site norm2.0, +delta layers.0.o, eps 0.00001",
      "linear, x normed, out gateUp, weight layers.0.gateUp, site layers.0.gateUp",
      "siluMul, x gateUp, out activated, +delta layers.0.gateUp",
      "linear, x activated, out residual, weight layers.0.down, site layers.0.down, accumulate",
      "rmsNorm, x residual, out lastNormed, weight norm, site norm, +delta layers.0.down, sampled rows, eps 0.00001",
      "linear, x lastNormed, out logits, weight head, site head, sampled rows",
      "sample, x logits, sampled rows",
    ]);
  });

  test("adds biases with the deltas", () => {
    const all = lines(one({ bias: true })).filter((line) => line.includes("+bias"));
    expect(all).toEqual([
      "ropeKvWrite, x qkv, +bias layers.0.qkv.bias, +delta layers.0.qkv, layer 0",
      "rmsNorm, x residual, out normed, weight norm2.0, site norm2.0, +bias layers.0.o.bias, +delta layers.0.o, eps 0.00001",
      "siluMul, x gateUp, out activated, +bias layers.0.gateUp.bias, +delta layers.0.gateUp",
      "rmsNorm, x residual, out lastNormed, weight norm, site norm, +bias layers.0.down.bias, +delta layers.0.down, sampled rows, eps 0.00001",
    ]);
  });

  test("norms heads within the rotation, with their own epsilon", () => {
    const all = lines(one({ qkNorm: true }));
    expect(all.length).toBe(lines(one()).length);
    expect(all[3]).toBe("ropeKvWrite, x qkv, q qnorm.0, at qnorm.0, k knorm.0, at knorm.0, +delta layers.0.qkv, layer 0, eps 0.000001");
  });

  test("takes tied embeddings as its head", () => {
    expect(lines(one({ tied: true })).at(-2)).toBe("linear, x lastNormed, out logits, weight embed, site head, sampled rows");
  });

  test("of several is followed by the next, whose first norm adds what the one before left", () => {
    const all = lines(tinyProgram({ ...TINY, layers: 3 }));
    expect(all.filter((line) => line.includes("weight norm1."))).toEqual([
      "rmsNorm, x residual, out normed, weight norm1.0, site norm1.0, eps 0.00001",
      "rmsNorm, x residual, out normed, weight norm1.1, site norm1.1, +delta layers.0.down, eps 0.00001",
      "rmsNorm, x residual, out normed, weight norm1.2, site norm1.2, +delta layers.1.down, eps 0.00001",
    ]);
    expect(all.filter((line) => line.startsWith("attention")).map((line) => line.split(", ").at(-1))).toEqual(["layer 0", "layer 1", "layer 2"]);
  });
});

describe("a layer with experts", () => {
  const program = expertProgram({ ...MIXTRAL, num_hidden_layers: 1 });
  const at = "model.layers.0";

  test("routes by a product in float32 with its adapters in it, and adds adapters of experts where they are", () => {
    const all = lines(program);
    const first = all.findIndex((line) => line.startsWith("exactLinear"));
    expect(all.slice(first - 1)).toEqual([
      `rmsNorm, x hidden, out normed, weight ${at}.post_attention_layernorm.weight, site ${at}.post_attention_layernorm, +delta ${at}.self_attn.o_proj, eps 0.00001`,
      `exactLinear, x normed, out router_logits, weight ${at}.block_sparse_moe.gate.weight, site ${at}.block_sparse_moe.gate`,
      "route, x router_logits, out routes, normalize",
      `expertLinear, x normed, out expert_gate_up, weight ${at}.mlp.experts.gate_up_proj, site ${at}.block_sparse_moe.experts.0.gate_up_proj, routes routes`,
      "siluMul, x expert_gate_up, out expert_gated",
      `expertLinear, x expert_gated, out expert_outputs, weight ${at}.mlp.experts.down_proj, site ${at}.block_sparse_moe.experts.0.down_proj, routes routes`,
      "combine, x expert_outputs, out hidden, routes routes",
      "rmsNorm, x hidden, out sampled_normed, weight model.norm.weight, site model.norm, sampled rows, eps 0.00001",
      "linear, x sampled_normed, out logits, weight lm_head.weight, site lm_head, sampled rows",
      "sample, x logits, sampled rows",
    ]);
  });

  test("keeps logits and shares in float32, and rows of experts in bfloat16", () => {
    const { buffers } = lowerProgram(program);
    const named = (name: string) => buffers[program.buffers.findIndex((buffer) => buffer.name === name)]!;
    expect(["router_logits", "routes"].map((name) => named(name).isFloat)).toEqual([true, true]);
    for (const name of ["expert_gate_up", "expert_gated", "expert_outputs"]) expect(named(name)).toMatchObject({ rows: "routed", isFloat: false });
  });
});

describe("buffers", () => {
  test("keep the residual stream and the logits in float32, and none for what no kernel touches", () => {
    const program = one();
    const { buffers } = lowerProgram(program);
    expect(buffers.map(({ width, rows, isFloat }, i) => `${program.buffers[i]!.name} ${width}${rows === "step" ? "" : ` ${rows}`}${isFloat ? " float32" : ""}`)).toEqual([
      "residual 24 float32",
      "normed 24",
      "qkv 80",
      "attended 48",
      "gateUp 80",
      "activated 40",
      "last 0 sampled",
      "lastNormed 24 sampled",
      "logits 61 sampled float32",
    ]);
  });
});

describe("sites", () => {
  test("begin and end where their modules do, those outside the layers as a whole", () => {
    const { sites } = one({ qkNorm: true });
    expect(Object.fromEntries(sites.map((site) => [site.name, [...moduleBorders(site)]]))).toEqual({
      embed: [0, 24],
      "norm1.0": [0, 24],
      "layers.0.qkv": [0, 48, 64, 80],
      "qnorm.0": [0, 8],
      "knorm.0": [0, 8],
      "layers.0.o": [0, 24],
      "norm2.0": [0, 24],
      "layers.0.gateUp": [0, 40, 80],
      "layers.0.down": [0, 24],
      norm: [0, 24],
      head: [0, 61],
    });
  });

  test("of routers and of experts, be it a single one, are told from those that all rows share", () => {
    const kindsOf = (changes: Parameters<typeof expertProgram>[0]) => {
      const program = expertProgram({ ...MIXTRAL, num_hidden_layers: 1, ...changes });
      const kinds = siteKinds(program);
      return program.sites.map(({ name }, id) => `${name.replace("model.layers.0.", "").replace("block_sparse_moe.", "")} ${kinds[id]}`);
    };
    expect(kindsOf({ num_local_experts: 1, num_experts_per_tok: 1 })).toEqual([
      "model.embed_tokens embedding",
      "input_layernorm norm",
      "self_attn.qkv_proj matrix",
      "self_attn.o_proj matrix",
      "post_attention_layernorm norm",
      "gate router",
      "experts.0.gate_up_proj expert",
      "experts.0.down_proj expert",
      "model.norm norm",
      "lm_head head",
    ]);
    expect(kindsOf({}).filter((each) => each.endsWith(" expert")).length).toBe(8);
  });
});

describe("windows", () => {
  const withWindows = (...windows: readonly (number | null)[]): Program => {
    const program = tinyProgram({ ...TINY, layers: windows.length });
    return { ...program, operations: program.operations.map((each) => (each.kind === "attention" ? { ...each, window: windows[each.layer]! } : each)) };
  };

  test("are said per layer", () => {
    const all = lines(withWindows(5, null, 9)).filter((line) => line.startsWith("attention"));
    expect(all).toEqual([
      "attention, x qkv, out attended, layer 0, window 5",
      "attention, x qkv, out attended, layer 1",
      "attention, x qkv, out attended, layer 2, window 9",
    ]);
  });

  test.each([
    [[5, 9, 7], 9],
    [[5, null, 7], 0],
    [[null], 0],
    [[12], 12],
  ] as const)("of %p: the longest is %d, 0 for no limit", (windows, longest) => {
    expect(lowerProgram(withWindows(...windows)).longestWindow).toBe(longest);
  });
});

describe("what no kernel serves", () => {
  test("is a head wider than 512", () => {
    const wide = (headDim: number) => one({ heads: 1, kvHeads: 1, headDim });
    expect(lowerProgram(wide(512)).launches.length).toBeGreaterThan(0);
    const thrown = thrownBy(() => lowerProgram(wide(514)));
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown).toMatchObject({
      errorCode: "model_unsupported",
      field: "head_dim",
      message: "head_dim must be at most 512 on a CUDA device, got 514; use --backend wasm",
    });
  });

  test("is a sum that nothing reads", () => {
    const program = one();
    const cut = { ...program, operations: program.operations.filter(({ kind }) => kind !== "siluMul") };
    expect(() => lowerProgram(cut)).toThrow("every sum that is left to be added is added");
  });
});
