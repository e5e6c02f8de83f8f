import { describe, expect, test } from "bun:test";
import { ModelError } from "../../src/core/errors.ts";
import { checkWeights } from "../../src/model/check-weights.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import {
  encodeSafetensors,
  type Json,
  tensorsOf,
  type TensorSpec,
  tinyConfig,
  writeDirectory,
} from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

type Tensors = Record<string, TensorSpec>;

function check(changes: Record<string, Json>, edit: (tensors: Tensors) => void): void {
  const config = tinyConfig(changes);
  const tensors = tensorsOf(config);
  edit(tensors);
  const directory = writeDirectory({ "model.safetensors": encodeSafetensors(tensors) });
  checkWeights(buildDecoderProgram(parseModelConfig(config)), openCheckpoint(directory));
}

const TIED = { tie_word_embeddings: true };
const HEAD = "lm_head.weight";
const EMBEDDING = "model.embed_tokens.weight";
const Q = "model.layers.1.self_attn.q_proj.weight";

describe("checkWeights", () => {
  const good: readonly (readonly [string, Record<string, Json>, (tensors: Tensors) => void])[] = [
    ["exactly the tensors of the program", {}, () => undefined],
    ["tied embeddings without an output matrix", TIED, () => undefined],
    ["tied embeddings with an equal output matrix", TIED, (t) => (t[HEAD] = t[EMBEDDING]!)],
    [
      "frequency tables of old releases",
      {},
      (t) => (t["model.layers.0.self_attn.rotary_emb.inv_freq"] = { shape: [2] }),
    ],
  ];
  test.each(good)("accepts %s", (_, changes, edit) => {
    expect(() => check(changes, edit)).not.toThrow();
  });

  const ones = (shape: readonly number[]): TensorSpec => ({
    shape,
    bytes: new Uint8Array(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(1).buffer),
  });
  const bad: readonly (readonly [
    string,
    Record<string, Json>,
    (tensors: Tensors) => void,
    string,
  ])[] = [
    [
      "a missing matrix",
      {},
      (t) => delete t[Q],
      `tensor ${Q} of shape [16, 16] is missing from the model's files`,
    ],
    [
      "a missing norm",
      {},
      (t) => delete t["model.norm.weight"],
      "tensor model.norm.weight of shape [16] is missing",
    ],
    [
      "a missing bias",
      { attention_bias: true },
      (t) => delete t["model.layers.0.self_attn.v_proj.bias"],
      "tensor model.layers.0.self_attn.v_proj.bias of shape [8] is missing",
    ],
    [
      "no output matrix where embeddings are untied",
      {},
      (t) => delete t[HEAD],
      "tensor lm_head.weight of shape [11, 16] is missing from the model's files; if the model shares its embeddings, set tie_word_embeddings",
    ],
    [
      "a matrix of another width",
      {},
      (t) => (t[Q] = { shape: [16, 20] }),
      `tensor ${Q} has shape [16, 20], but config.json asks for [16, 16]`,
    ],
    [
      "a transposed matrix",
      {},
      (t) => (t["model.layers.0.mlp.down_proj.weight"] = { shape: [20, 16] }),
      "has shape [20, 16], but config.json asks for [16, 20]",
    ],
    [
      "a vector in two dimensions",
      {},
      (t) => (t["model.norm.weight"] = { shape: [16, 1] }),
      "tensor model.norm.weight has shape [16, 1], but config.json asks for [16]",
    ],
    [
      "a vocabulary of another size",
      {},
      (t) => (t[EMBEDDING] = { shape: [12, 16] }),
      `tensor ${EMBEDDING} has shape [12, 16], but config.json asks for [11, 16]`,
    ],
    [
      "one unused tensor",
      {},
      (t) => (t["model.layers.2.mlp.up_proj.weight"] = { shape: [1] }),
      "hold tensor model.layers.2.mlp.up_proj.weight, which config.json gives no use for",
    ],
    [
      "several unused tensors",
      {},
      (t) => Object.assign(t, { x: { shape: [1] }, y: { shape: [1] } }),
      "hold tensor x and 1 more, which config.json gives no use for",
    ],
    [
      "an unused bias",
      {},
      (t) => (t["model.layers.0.self_attn.q_proj.bias"] = { shape: [16] }),
      "hold tensor model.layers.0.self_attn.q_proj.bias, which",
    ],
    [
      "norms on heads that the architecture lacks",
      {},
      (t) => (t["model.layers.0.self_attn.q_norm.weight"] = { shape: [4] }),
      "self_attn.q_norm.weight, which config.json gives no use for",
    ],
    [
      "tied embeddings with another output matrix",
      TIED,
      (t) => (t[HEAD] = ones([11, 16])),
      "tensor lm_head.weight differs from model.embed_tokens.weight, but tie_word_embeddings in config.json is true; set it to false",
    ],
    [
      "tied embeddings with an output matrix of another shape",
      TIED,
      (t) => (t[HEAD] = { shape: [12, 16] }),
      "tensor lm_head.weight differs from",
    ],
  ];
  test.each(bad)("refuses %s", (_, changes, edit, message) => {
    const thrown = thrownBy(() => check(changes, edit)) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.errorCode).toBe("model_invalid");
    expect(thrown.message).toContain(message);
  });
});
