import { describe, expect, test } from "bun:test";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";
import { layerSites, type Operation, type Program } from "../../src/model/program.ts";
import { type Json, tinyConfig } from "../helpers/model-files.ts";

const build = (changes: Record<string, Json | undefined> = {}): Program =>
  buildDecoderProgram(parseModelConfig(tinyConfig({ num_hidden_layers: 1, ...changes })));

/** Sizes of `tinyConfig`: q is 4 heads of 4, k and v 2 heads of 4 each. */
const QKV = 32;
const LAYER = "model.layers.0";
const ATTENTION = `${LAYER}.self_attn`;
const MLP = `${LAYER}.mlp`;

const named = (program: Program, id: number): string => program.buffers[id]!.name;
const weightName = (program: Program, id: number | null): string =>
  id === null ? "none" : program.weights[id]!.name;

const siteName = (program: Program, id: number | null): string => (id === null ? "none" : program.sites[id]!.name);

/** One readable line per operation. */
function line(program: Program, operation: Operation): string {
  switch (operation.kind) {
    case "embed":
      return `embed ${weightName(program, operation.weight)} site ${siteName(program, operation.site)} -> ${named(program, operation.out)}`;
    case "rmsNorm":
      return `norm ${named(program, operation.x)} ${weightName(program, operation.weight)} site ${siteName(program, operation.site)} -> ${named(program, operation.out)}`;
    case "linear": {
      const site = siteName(program, operation.site);
      const into = `${operation.accumulate ? "+" : "-"}> ${named(program, operation.out)}`;
      return `linear ${named(program, operation.x)} ${weightName(program, operation.weight)} bias ${weightName(program, operation.bias)} site ${site} ${into}`;
    }
    case "headNorm":
      return `headNorm ${named(program, operation.x)}@${operation.offset} x${operation.numHeads} ${weightName(program, operation.weight)} site ${siteName(program, operation.site)}`;
    case "ropeKvWrite":
      return `rope ${named(program, operation.qkv)} layer ${operation.layer}`;
    case "attention":
      return `attention ${named(program, operation.qkv)} layer ${operation.layer} window ${operation.window} -> ${named(program, operation.out)}`;
    case "route":
      return `route ${named(program, operation.logits)}${operation.normalize ? " normalized" : ""} -> ${named(program, operation.out)}`;
    case "expertLinear":
      return `experts ${named(program, operation.x)} by ${named(program, operation.routes)} ${weightName(program, operation.weight)} sites from ${program.sites[operation.site]!.name} -> ${named(program, operation.out)}`;
    case "combine":
      return `combine ${named(program, operation.x)} by ${named(program, operation.routes)} +> ${named(program, operation.out)}`;
    case "siluMul":
    case "gather":
      return `${operation.kind} ${named(program, operation.x)} -> ${named(program, operation.out)}`;
    case "sample":
      return `sample ${named(program, operation.logits)}`;
  }
}

const lines = (program: Program): string[] =>
  program.operations.map((operation) => line(program, operation));

/** The layer of a split checkpoint, with what architectures add to it. */
interface Expected {
  readonly qkv?: string;
  readonly qkvBias?: string;
  readonly headNorms?: readonly string[];
  readonly window?: number | null;
  readonly outputBias?: string;
  readonly gateUp?: string;
  readonly gateUpBias?: string;
  readonly downBias?: string;
  readonly head?: string;
}

const biasOf = (parent: string, names: readonly string[]): string =>
  names.map((name) => `${parent}.${name}.bias`).join(" + ");

function expectedLines(expected: Expected): string[] {
  const qkv = ["q_proj", "k_proj", "v_proj"]
    .map((name) => `${ATTENTION}.${name}.weight`)
    .join(" + ");
  const gateUp = `${MLP}.gate_proj.weight + ${MLP}.up_proj.weight`;
  return [
    "embed model.embed_tokens.weight site model.embed_tokens -> hidden",
    `norm hidden ${LAYER}.input_layernorm.weight site ${LAYER}.input_layernorm -> normed`,
    `linear normed ${expected.qkv ?? qkv} bias ${expected.qkvBias ?? "none"} site ${ATTENTION}.qkv_proj -> qkv`,
    ...(expected.headNorms ?? []),
    "rope qkv layer 0",
    `attention qkv layer 0 window ${expected.window ?? null} -> attended`,
    `linear attended ${ATTENTION}.o_proj.weight bias ${expected.outputBias ?? "none"} site ${ATTENTION}.o_proj +> hidden`,
    `norm hidden ${LAYER}.post_attention_layernorm.weight site ${LAYER}.post_attention_layernorm -> normed`,
    `linear normed ${expected.gateUp ?? gateUp} bias ${expected.gateUpBias ?? "none"} site ${MLP}.gate_up_proj -> gate_up`,
    "siluMul gate_up -> gated",
    `linear gated ${MLP}.down_proj.weight bias ${expected.downBias ?? "none"} site ${MLP}.down_proj +> hidden`,
    "gather hidden -> sampled_hidden",
    "norm sampled_hidden model.norm.weight site model.norm -> sampled_normed",
    `linear sampled_normed ${expected.head ?? "lm_head.weight"} bias none site lm_head -> logits`,
    "sample logits",
  ];
}

const QKV_BIAS = biasOf(ATTENTION, ["q_proj", "k_proj", "v_proj"]);
const HEAD_NORMS = [
  `headNorm qkv@0 x4 ${ATTENTION}.q_norm.weight site ${ATTENTION}.q_norm`,
  `headNorm qkv@16 x2 ${ATTENTION}.k_norm.weight site ${ATTENTION}.k_norm`,
];

const architectures: readonly (readonly [string, Record<string, Json>, Expected])[] = [
  ["Llama", {}, {}],
  [
    "Llama with tied embeddings",
    { tie_word_embeddings: true },
    { head: "model.embed_tokens.weight" },
  ],
  [
    "Llama with biases",
    { attention_bias: true, mlp_bias: true },
    {
      qkvBias: QKV_BIAS,
      outputBias: `${ATTENTION}.o_proj.bias`,
      gateUpBias: biasOf(MLP, ["gate_proj", "up_proj"]),
      downBias: `${MLP}.down_proj.bias`,
    },
  ],
  [
    "Mistral",
    { architectures: ["MistralForCausalLM"], model_type: "mistral", sliding_window: 8 },
    { window: 8 },
  ],
  ["Qwen2", { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2" }, { qkvBias: QKV_BIAS }],
  [
    "Qwen3",
    { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3" },
    { headNorms: HEAD_NORMS },
  ],
  [
    "Qwen3 with biases",
    { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", attention_bias: true },
    { headNorms: HEAD_NORMS, qkvBias: QKV_BIAS, outputBias: `${ATTENTION}.o_proj.bias` },
  ],
  [
    "Phi-3",
    { architectures: ["Phi3ForCausalLM"], model_type: "phi3" },
    { qkv: `${ATTENTION}.qkv_proj.weight`, gateUp: `${MLP}.gate_up_proj.weight` },
  ],
];

describe("the program of an architecture", () => {
  test.each(architectures)("%s has these operations", (_, changes, expected) => {
    expect(lines(build(changes))).toEqual(expectedLines(expected));
  });

  test.each(architectures)("%s fits together", (_, changes) => {
    const program = build({ ...changes, num_hidden_layers: 3 });
    const { numHeads, numKvHeads, headDim } = program.attention;
    for (const operation of program.operations) {
      if (operation.kind === "linear") {
        const weight = program.weights[operation.weight]!;
        expect(program.buffers[operation.x]!.width).toBe(weight.cols);
        expect(program.buffers[operation.out]!.width).toBe(weight.rows);
        if (operation.bias !== null) {
          expect(program.weights[operation.bias]).toMatchObject({
            kind: "vector",
            rows: weight.rows,
            cols: 1,
          });
        }
        if (operation.site !== null) {
          expect(program.sites[operation.site]).toMatchObject({
            inWidth: weight.cols,
            outWidth: weight.rows,
          });
        }
      }
      if (operation.kind === "attention") {
        expect(program.buffers[operation.qkv]!.width).toBe((numHeads + 2 * numKvHeads) * headDim);
        expect(program.buffers[operation.out]!.width).toBe(numHeads * headDim);
      }
    }
    for (const weight of program.weights) {
      expect(weight.parts.reduce((sum, part) => sum + part.rows, 0)).toBe(weight.rows);
    }
    for (const site of program.sites) {
      const own = site.modules
        .filter((module) => module.own)
        .toSorted((a, b) => a.offset - b.offset);
      let offset = 0;
      for (const module of own) {
        expect(module.offset).toBe(offset);
        offset += module.width;
      }
      expect(offset).toBe(site.outWidth);
      for (const module of site.modules)
        expect(module.offset + module.width).toBeLessThanOrEqual(site.outWidth);
    }
    const sites = program.operations.flatMap((op) => ("site" in op ? [op.site] : []));
    expect(sites).toEqual(program.sites.map((_site, id) => id));
  });

  test("gives sampled rows buffers of their own, and everything else the rows of the step", () => {
    const program = build();
    const sampled = program.buffers
      .filter(({ rows }) => rows === "sampled")
      .map(({ name }) => name);
    expect(sampled).toEqual(["sampled_hidden", "sampled_normed", "logits"]);
    expect(program.buffers.map(({ name, width }) => [name, width])).toEqual([
      ["hidden", 16],
      ["normed", 16],
      ["qkv", QKV],
      ["attended", 16],
      ["gate_up", 40],
      ["gated", 20],
      ["sampled_hidden", 16],
      ["sampled_normed", 16],
      ["logits", 11],
    ]);
  });

  test("stacks the rows of split projections in one weight, in the order q, k, v and gate, up", () => {
    const program = build();
    const stacked = program.weights
      .filter(({ parts }) => parts.length > 1)
      .map(({ parts }) => parts);
    expect(stacked).toEqual([
      [
        { tensor: `${ATTENTION}.q_proj.weight`, rows: 16 },
        { tensor: `${ATTENTION}.k_proj.weight`, rows: 8 },
        { tensor: `${ATTENTION}.v_proj.weight`, rows: 8 },
      ],
      [
        { tensor: `${MLP}.gate_proj.weight`, rows: 20 },
        { tensor: `${MLP}.up_proj.weight`, rows: 20 },
      ],
    ]);
  });

  const qkvModules = (own: boolean) => [
    { path: `${ATTENTION}.q_proj`, offset: 0, width: 16, own },
    { path: `${ATTENTION}.k_proj`, offset: 16, width: 8, own },
    { path: `${ATTENTION}.v_proj`, offset: 24, width: 8, own },
  ];
  const gateUpModules = (own: boolean) => [
    { path: `${MLP}.gate_proj`, offset: 0, width: 20, own },
    { path: `${MLP}.up_proj`, offset: 20, width: 20, own },
  ];

  test("lets adapters of fused layouts act on a split checkpoint", () => {
    expect(layerSites(build()).map(({ modules }) => modules)).toEqual([
      [...qkvModules(true), { path: `${ATTENTION}.qkv_proj`, offset: 0, width: QKV, own: false }],
      [{ path: `${ATTENTION}.o_proj`, offset: 0, width: 16, own: true }],
      [...gateUpModules(true), { path: `${MLP}.gate_up_proj`, offset: 0, width: 40, own: false }],
      [{ path: `${MLP}.down_proj`, offset: 0, width: 16, own: true }],
    ]);
  });

  test("lets adapters of split layouts act on a fused checkpoint", () => {
    const program = build({ architectures: ["Phi3ForCausalLM"], model_type: "phi3" });
    expect(layerSites(program).map(({ modules }) => modules)).toEqual([
      [{ path: `${ATTENTION}.qkv_proj`, offset: 0, width: QKV, own: true }, ...qkvModules(false)],
      [{ path: `${ATTENTION}.o_proj`, offset: 0, width: 16, own: true }],
      [{ path: `${MLP}.gate_up_proj`, offset: 0, width: 40, own: true }, ...gateUpModules(false)],
      [{ path: `${MLP}.down_proj`, offset: 0, width: 16, own: true }],
    ]);
  });

  test("has one weight for tied embeddings and two for untied ones", () => {
    const vocabulary = (tied: boolean): number =>
      build({ tie_word_embeddings: tied }).weights.filter(({ rows }) => rows === 11).length;
    expect([vocabulary(true), vocabulary(false)]).toEqual([1, 2]);
  });

  test("carries shapes, context and rope rule of the configuration", () => {
    const program = build({ head_dim: 6, num_hidden_layers: 2, max_position_embeddings: 32 });
    expect(program).toMatchObject({ numLayers: 2, hiddenSize: 16, vocabSize: 11, maxContext: 32 });
    expect(program.attention).toEqual({
      numHeads: 4,
      numKvHeads: 2,
      headDim: 6,
      scale: 1 / Math.sqrt(6),
    });
    expect(program.rope.rotaryDim).toBe(6);
    expect(program.rope.inverseFrequencies.length).toBe(3);
  });

  test("windows the layers that have one, and no other", () => {
    const qwen2 = {
      architectures: ["Qwen2ForCausalLM"],
      model_type: "qwen2",
      num_hidden_layers: 3,
    };
    const program = build({
      ...qwen2,
      use_sliding_window: true,
      sliding_window: 9,
      max_window_layers: 2,
    });
    const windows = program.operations.flatMap((op) =>
      op.kind === "attention" ? [op.window] : [],
    );
    expect(windows).toEqual([null, null, 9]);
  });
});
