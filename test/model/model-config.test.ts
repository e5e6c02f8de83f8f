import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ModelError } from "../../src/core/errors.ts";
import { parseModelConfig, readModelConfig } from "../../src/model/model-config.ts";
import { type Json, tinyConfig, writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

type Changes = Record<string, Json | undefined>;
const parse = (changes: Changes) => parseModelConfig(tinyConfig(changes));

const MISTRAL = { architectures: ["MistralForCausalLM"], model_type: "mistral" };
const QWEN2 = { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2" };
const QWEN3 = { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3" };
const PHI3 = { architectures: ["Phi3ForCausalLM"], model_type: "phi3" };
const LLAMA3_ROPE = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};
const LONGROPE = { rope_type: "longrope", short_factor: [1, 1.5], long_factor: [1, 4] };

describe("a configuration", () => {
  test("of the demo model gives every size", () => {
    expect(readModelConfig(join(import.meta.dir, "../../models/demo"))).toEqual({
      architecture: "LlamaForCausalLM",
      modelType: "llama",
      hiddenSize: 256,
      intermediateSize: 768,
      numLayers: 6,
      numHeads: 4,
      numKvHeads: 2,
      headDim: 64,
      vocabSize: 4096,
      maxContext: 1024,
      rmsNormEps: 1e-5,
      tiedEmbeddings: true,
      rope: { theta: 10000, rotaryDim: 64, scaling: { type: "default" } },
      traits: {
        qkvBias: false,
        outputBias: false,
        mlpBias: false,
        headNorms: false,
        fusedProjections: false,
        windows: [null, null, null, null, null, null],
      },
    });
  });

  const spellings: readonly (readonly [string, Changes, Changes])[] = [
    [
      "rope_theta and torch_dtype",
      { rope_parameters: { rope_type: "default", rope_theta: 5000 }, dtype: "float32" },
      { rope_parameters: undefined, rope_theta: 5000, torch_dtype: "float32", rope_scaling: null },
    ],
    [
      "rope_scaling with type",
      { rope_parameters: { rope_type: "linear", rope_theta: 10000, factor: 2 } },
      { rope_parameters: undefined, rope_scaling: { type: "linear", factor: 2 } },
    ],
    [
      "rope_scaling with rope_type",
      { rope_parameters: { ...LLAMA3_ROPE, rope_theta: 500000 } },
      { rope_parameters: undefined, rope_theta: 500000, rope_scaling: LLAMA3_ROPE },
    ],
    [
      "rope_type in both names",
      { rope_parameters: { rope_type: "linear", rope_theta: 10000, factor: 4 } },
      {
        rope_parameters: undefined,
        rope_scaling: { rope_type: "linear", type: "linear", factor: 4 },
      },
    ],
    [
      "Phi-3's partial_rotary_factor",
      { ...PHI3, rope_parameters: { rope_theta: 10000, partial_rotary_factor: 0.5 } },
      { ...PHI3, rope_parameters: undefined, rope_theta: 10000, partial_rotary_factor: 0.5 },
    ],
    [
      "Phi-3's su",
      { ...PHI3, original_max_position_embeddings: 32, rope_parameters: LONGROPE },
      {
        ...PHI3,
        original_max_position_embeddings: 32,
        rope_parameters: undefined,
        rope_scaling: { type: "su", short_factor: [1, 1.5], long_factor: [1, 4] },
      },
    ],
  ];
  test.each(spellings)("means the same in its old spelling: %s", (_, changes, old) => {
    expect(parse(old)).toEqual(parse(changes));
  });

  test("finds the architecture by model_type where architectures is absent", () => {
    expect(parse({ architectures: undefined, model_type: "mistral" }).architecture).toBe(
      "MistralForCausalLM",
    );
  });

  test("derives head_dim and key-value heads where they are absent", () => {
    expect(parse({ head_dim: undefined, num_key_value_heads: undefined })).toMatchObject({
      headDim: 4,
      numKvHeads: 4,
    });
    expect(parse({ head_dim: null, num_key_value_heads: null })).toMatchObject({
      headDim: 4,
      numKvHeads: 4,
    });
  });

  test("takes the defaults of its own architecture", () => {
    const bare = {
      num_key_value_heads: undefined,
      num_attention_heads: 32,
      hidden_size: 64,
      head_dim: undefined,
    };
    expect(parse({ ...bare, ...MISTRAL })).toMatchObject({ numKvHeads: 8, headDim: 2 });
    expect(parse({ ...bare, ...QWEN3 })).toMatchObject({ numKvHeads: 32, headDim: 128 });
    expect(parse({ rope_parameters: undefined }).rope.theta).toBe(10000);
    expect(parse({ max_position_embeddings: undefined }).maxContext).toBe(2048);
    expect(parse({ rms_norm_eps: undefined }).rmsNormEps).toBe(1e-6);
  });

  test("keeps a head size that is not hidden size over heads", () => {
    expect(parse({ head_dim: 10 })).toMatchObject({ headDim: 10, rope: { rotaryDim: 10 } });
  });

  const traits: readonly (readonly [string, Changes, Json])[] = [
    ["Llama without biases", {}, { qkvBias: false, outputBias: false, mlpBias: false }],
    [
      "Llama with biases",
      { attention_bias: true, mlp_bias: true },
      { qkvBias: true, outputBias: true, mlpBias: true },
    ],
    ["Mistral", { ...MISTRAL, sliding_window: 8 }, { qkvBias: false, windows: [8, 8] }],
    ["Mistral with a null window", { ...MISTRAL, sliding_window: null }, { windows: [null, null] }],
    ["Mistral that does not speak of windows", MISTRAL, { windows: [4096, 4096] }],
    [
      "Qwen2",
      QWEN2,
      { qkvBias: true, outputBias: false, mlpBias: false, headNorms: false, windows: [null, null] },
    ],
    [
      "Qwen2 with an unused window",
      { ...QWEN2, sliding_window: 8, max_window_layers: 0 },
      { windows: [null, null] },
    ],
    [
      "Qwen2 with a window from a layer upwards",
      { ...QWEN2, use_sliding_window: true, sliding_window: 8, max_window_layers: 1 },
      { windows: [null, 8] },
    ],
    [
      "Qwen2 with layer types",
      {
        ...QWEN2,
        use_sliding_window: true,
        sliding_window: 8,
        max_window_layers: 0,
        layer_types: ["sliding_attention", "full_attention"],
      },
      { windows: [8, null] },
    ],
    ["Qwen3", QWEN3, { headNorms: true, qkvBias: false, outputBias: false }],
    [
      "Qwen3 with biases",
      { ...QWEN3, attention_bias: true },
      { headNorms: true, qkvBias: true, outputBias: true },
    ],
    ["Phi-3", PHI3, { fusedProjections: true, windows: [null, null] }],
    [
      "Phi-3 with a window",
      { ...PHI3, sliding_window: 5 },
      { fusedProjections: true, windows: [5, 5] },
    ],
  ];
  test.each(traits)("of %s", (_, changes, expected) => {
    expect(parse(changes).traits).toMatchObject(expected as object);
  });

  test("ends contexts of LongRoPE at the original length, where its short factors apply", () => {
    const config = parse({ ...PHI3, original_max_position_embeddings: 16, rope_scaling: LONGROPE });
    expect(config.maxContext).toBe(16);
    expect(config.rope.scaling).toEqual({
      type: "longrope",
      shortFactors: [1, 1.5],
      originalMaxPositions: 16,
      attentionScaling: Math.sqrt(1 + Math.log(4) / Math.log(16)),
    });
  });

  test("prefers rope_scaling where a file has both spellings", () => {
    const both = parse({ rope_scaling: { type: "linear", factor: 2, rope_theta: 77 } });
    expect(both.rope).toEqual({ theta: 77, rotaryDim: 4, scaling: { type: "linear", factor: 2 } });
  });

  test("passes over a rope_scaling that holds nothing, as transformers does", () => {
    const rope_parameters = { rope_type: "linear", factor: 2, rope_theta: 77 };
    expect(parse({ rope_scaling: {}, rope_parameters }).rope).toEqual({ theta: 77, rotaryDim: 4, scaling: { type: "linear", factor: 2 } });
  });

  test("takes LongRoPE's original length from its rules only where transformers reads the same", () => {
    const rope_scaling = { ...LONGROPE, original_max_position_embeddings: 4096 };
    expect(parse({ ...PHI3, max_position_embeddings: 8192, rope_scaling }).maxContext).toBe(4096);
  });
});

describe("a configuration is refused", () => {
  const invalid: readonly (readonly [string, Changes, string])[] = [
    [
      "no hidden_size",
      { hidden_size: undefined },
      "hidden_size in config.json must be a whole number from 1 to 1048576, got nothing",
    ],
    [
      "hidden_size as text",
      { hidden_size: "16" },
      'hidden_size in config.json must be a whole number from 1 to 1048576, got "16"',
    ],
    [
      "hidden_size zero",
      { hidden_size: 0 },
      "hidden_size in config.json must be a whole number from 1 to 1048576, got 0",
    ],
    [
      "layers negative",
      { num_hidden_layers: -1 },
      "num_hidden_layers in config.json must be a whole number from 1 to 1024, got -1",
    ],
    [
      "layers fractional",
      { num_hidden_layers: 1.5 },
      "num_hidden_layers in config.json must be a whole number from 1 to 1024, got 1.5",
    ],
    [
      "heads over the limit",
      { num_attention_heads: 4096 },
      "num_attention_heads in config.json must be a whole number from 1 to 1024, got 4096",
    ],
    [
      "kv heads that do not divide",
      { num_key_value_heads: 3 },
      "num_key_value_heads in config.json must be a divisor of num_attention_heads (4), which 3 is not, got 3",
    ],
    [
      "kv heads as an array",
      { num_key_value_heads: [2] },
      "num_key_value_heads in config.json must be a whole number from 1 to 1024, got an array",
    ],
    [
      "an odd head size",
      { head_dim: 5 },
      "head_dim in config.json must be even (heads of 5 cannot be rotated in pairs), got 5",
    ],
    [
      "heads that do not divide",
      { head_dim: undefined, hidden_size: 18 },
      "hidden_size in config.json must be a multiple of num_attention_heads (4) where head_dim is not given, got 18",
    ],
    [
      "no intermediate size",
      { intermediate_size: null },
      "intermediate_size in config.json must be a whole number from 1 to 1048576, got nothing",
    ],
    [
      "vocabulary as a truth value",
      { vocab_size: true },
      "vocab_size in config.json must be a whole number from 1 to 4194304, got true",
    ],
    [
      "positions zero",
      { max_position_embeddings: 0 },
      "max_position_embeddings in config.json must be a whole number from 1 to 16777216, got 0",
    ],
    [
      "a negative epsilon",
      { rms_norm_eps: -1e-5 },
      "rms_norm_eps in config.json must be a number from 0 to 1, got -0.00001",
    ],
    [
      "tied embeddings as text",
      { tie_word_embeddings: "yes" },
      'tie_word_embeddings in config.json must be true or false, got "yes"',
    ],
    [
      "attention_bias as a number",
      { attention_bias: 1 },
      "attention_bias in config.json must be true or false, got 1",
    ],
    [
      "architectures as text",
      { architectures: "LlamaForCausalLM" },
      'architectures in config.json must be an array, got "LlamaForCausalLM"',
    ],
    [
      "two architectures",
      { architectures: ["LlamaForCausalLM", "X"] },
      "architectures in config.json must be an array of one class name, got an array",
    ],
    [
      "a model_type of another class",
      { model_type: "qwen2" },
      'model_type in config.json must be "llama" as architectures names LlamaForCausalLM, got "qwen2"',
    ],
    [
      "rope_theta zero",
      { rope_parameters: { rope_theta: 0 } },
      "rope_parameters.rope_theta in config.json must be a number from 1 to 1000000000000000, got 0",
    ],
    [
      "rope parameters as text",
      { rope_scaling: "linear" },
      'rope_scaling in config.json must be an object, got "linear"',
    ],
    [
      "linear scaling without a factor",
      { rope_scaling: { type: "linear" } },
      "rope_scaling.factor in config.json must be a number from 1 to 1000000, got nothing",
    ],
    [
      "a factor without a type",
      { rope_scaling: { factor: 2 } },
      "rope_scaling.rope_type in config.json must be given where scaling factors are, got nothing",
    ],
    [
      "llama3 scaling with equal bounds",
      { rope_scaling: { ...LLAMA3_ROPE, high_freq_factor: 1 } },
      "rope_scaling.high_freq_factor in config.json must be greater than low_freq_factor (1), got 1",
    ],
    [
      "llama3 scaling without its length",
      { rope_scaling: { ...LLAMA3_ROPE, original_max_position_embeddings: null } },
      "rope_scaling.original_max_position_embeddings in config.json must be a whole number from 1 to 16777216, got nothing",
    ],
    [
      "an odd share of rotated values",
      { ...PHI3, partial_rotary_factor: 0.75 },
      "partial_rotary_factor in config.json must be a share of head_dim (4) that gives an even number of rotated values, not 3, got 0.75",
    ],
    [
      "a rotated share above one",
      { ...PHI3, partial_rotary_factor: 1.5 },
      "partial_rotary_factor in config.json must be a number from 0 to 1, got 1.5",
    ],
    [
      "LongRoPE with too few factors",
      {
        ...PHI3,
        original_max_position_embeddings: 16,
        rope_scaling: { ...LONGROPE, short_factor: [1] },
      },
      "rope_scaling.short_factor in config.json must be an array of 2 positive numbers, one for each rotated pair, got an array",
    ],
    [
      "LongRoPE with a factor of zero",
      {
        ...PHI3,
        original_max_position_embeddings: 16,
        rope_scaling: { ...LONGROPE, short_factor: [1, 0] },
      },
      "rope_scaling.short_factor in config.json must be an array of 2 positive numbers",
    ],
    [
      "LongRoPE without its length",
      { ...PHI3, rope_scaling: LONGROPE },
      "rope_scaling.original_max_position_embeddings in config.json must be a whole number from 1 to 16777216, got nothing",
    ],
    [
      "LongRoPE with its length where nobody reads it",
      { ...PHI3, rope_scaling: { ...LONGROPE, original_max_position_embeddings: 16 } },
      "rope_scaling.original_max_position_embeddings in config.json must be at the top of the file, where 4096 is taken when it is missing, got 16",
    ],
    [
      "a window of zero",
      { ...MISTRAL, sliding_window: 0 },
      "sliding_window in config.json must be a whole number from 1 to 2147483647, got 0",
    ],
    [
      "too few layer types",
      { ...QWEN2, layer_types: ["full_attention"] },
      "layer_types in config.json must be an array of num_hidden_layers (2) names, got an array",
    ],
    [
      "sliding layers without a window",
      { ...QWEN2, layer_types: ["full_attention", "sliding_attention"] },
      "layer_types in config.json must be full_attention in every layer while use_sliding_window is off or sliding_window is null, got an array",
    ],
  ];
  test.each(invalid)("as invalid: %s", (_, changes, message) => {
    const thrown = thrownBy(() => parse(changes)) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain(message);
    expect(thrown.errorCode).toBe("model_invalid");
  });

  const unsupported: readonly (readonly [string, Changes, string])[] = [
    [
      "an unknown architecture",
      { architectures: ["GPT2LMHeadModel"], model_type: "gpt2" },
      'architectures in config.json names "GPT2LMHeadModel", which cannot be served; supported: LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, Phi3ForCausalLM',
    ],
    [
      "a classifier of a known family",
      { architectures: ["LlamaForSequenceClassification"] },
      'names "LlamaForSequenceClassification", which cannot be served',
    ],
    [
      "an unknown model_type alone",
      { architectures: undefined, model_type: "mamba" },
      'model_type in config.json is "mamba"; supported: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, phi3',
    ],
    [
      "no architecture at all",
      { architectures: undefined, model_type: undefined },
      "model_type in config.json is nothing; supported: llama",
    ],
    [
      "another activation",
      { hidden_act: "gelu" },
      'hidden_act in config.json is "gelu"; supported: silu',
    ],
    [
      "quantised weights",
      { quantization_config: { quant_method: "gptq", bits: 4 } },
      'quantization_config in config.json says that the weights are quantised with "gptq"; supported: weights in F32, F16 or BF16',
    ],
    [
      "YaRN",
      { rope_scaling: { rope_type: "yarn", factor: 4 } },
      'rope_scaling.rope_type in config.json is "yarn"; supported: default, linear, llama3 for LlamaForCausalLM',
    ],
    [
      "dynamic scaling",
      { rope_scaling: { type: "dynamic", factor: 4 } },
      'rope_scaling.type in config.json is "dynamic"; supported: default, linear, llama3',
    ],
    [
      "LongRoPE outside Phi-3",
      { rope_scaling: LONGROPE },
      'rope_scaling.rope_type in config.json is "longrope"; supported: default, linear, llama3',
    ],
    [
      "a rope rule per kind of layer",
      { rope_parameters: { full_attention: { rope_type: "default" } } },
      "rope_parameters.full_attention in config.json is an object; supported: one rope rule for all layers",
    ],
    [
      "partial rotation outside Phi-3",
      { partial_rotary_factor: 0.5 },
      "partial_rotary_factor in config.json is 0.5; supported: 1 for LlamaForCausalLM",
    ],
    [
      "sliding layers in Llama",
      { layer_types: ["full_attention", "sliding_attention"] },
      "layer_types in config.json is an array; supported: full_attention in every layer for this architecture",
    ],
    [
      "mixed layers in Mistral",
      { ...MISTRAL, sliding_window: 8, layer_types: ["full_attention", "sliding_attention"] },
      "layer_types in config.json is an array; supported: layers that agree with sliding_window",
    ],
    [
      "an unknown kind of layer",
      { ...QWEN2, layer_types: ["full_attention", "linear_attention"] },
      "layer_types in config.json is an array; supported: full_attention and sliding_attention",
    ],
  ];
  test.each(unsupported)("as unsupported: %s", (_, changes, message) => {
    const thrown = thrownBy(() => parse(changes)) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain(message);
    expect(thrown.errorCode).toBe("model_unsupported");
  });

  const files: readonly (readonly [string, Record<string, string | Uint8Array>, string])[] = [
    ["that is missing", {}, "the model directory has no config.json"],
    [
      "that is no JSON",
      { "config.json": "{" },
      "config.json is not usable: the JSON text must have a key in double quotes",
    ],
    [
      "that is no object",
      { "config.json": "[]" },
      "config.json is not usable: the JSON text must be an object, got an array",
    ],
    [
      "with a key twice",
      { "config.json": '{"a":1,"a":2}' },
      'config.json is not usable: the key "a" appears twice',
    ],
    [
      "in broken UTF-8",
      { "config.json": Uint8Array.of(0xff) },
      "config.json is not usable: the JSON text is not valid UTF-8",
    ],
    [
      "that nests too deeply",
      { "config.json": `{"a":${"[".repeat(20)}` },
      "config.json is not usable: the JSON text nests deeper than the 16 levels",
    ],
    [
      "over the size limit",
      { "config.json": " ".repeat(1_048_577) },
      "config.json has 1048577 bytes, more than the 1048576 allowed",
    ],
  ];
  test.each(files)("as a file %s", (_, content, message) => {
    const thrown = thrownBy(() => readModelConfig(writeDirectory(content))) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain(message);
  });
});
