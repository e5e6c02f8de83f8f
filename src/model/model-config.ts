/** `config.json` as the typed record that a program is built from. */
import { ModelError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { JsonObject } from "../formats/json.ts";
import type { Architecture, DecoderTraits } from "./architecture.ts";
import { ARCHITECTURES } from "./architectures/registry.ts";
import { ConfigFields, type Range } from "./config-fields.ts";
import { readJsonFile } from "./read-json-file.ts";
import { readRopeConfig, type RopeConfig } from "./rope-config.ts";

export interface ModelConfig {
  /** Class name of the architecture, e.g. `LlamaForCausalLM`. */
  readonly architecture: string;
  readonly modelType: string;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Divides `numHeads`. */
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Longest sequence, prompt and output together. */
  readonly maxContext: number;
  readonly rmsNormEps: number;
  /** The output matrix is the embedding matrix. */
  readonly tiedEmbeddings: boolean;
  readonly rope: RopeConfig;
  readonly traits: DecoderTraits;
}

const FILE = "config.json";
const SIZE: Range = { min: 1, max: 1_048_576 };
const HEADS: Range = { min: 1, max: 1024 };
const LAYERS: Range = { min: 1, max: 1024 };
const VOCABULARY: Range = { min: 1, max: 4_194_304 };
const POSITIONS: Range = { min: 1, max: 16_777_216 };
const ACTIVATIONS = ["silu", "swish"];

/** @throws {ModelError} when the file is missing, malformed, or describes a model that cannot be served */
export function readModelConfig(directory: string): ModelConfig {
  const object = readJsonFile(directory, FILE);
  if (object === undefined) {
    throw new ModelError(
      "model_invalid",
      `the model directory has no ${FILE}; give a directory with a model's files`,
    );
  }
  return parseModelConfig(object);
}

export function parseModelConfig(object: JsonObject): ModelConfig {
  const fields = new ConfigFields(FILE, object);
  const architecture = findArchitecture(fields);
  refuseUnsupported(fields);

  const { defaults } = architecture;
  const hiddenSize = fields.integer("hidden_size", SIZE);
  const numLayers = fields.integer("num_hidden_layers", LAYERS);
  const numHeads = fields.integer("num_attention_heads", HEADS);
  const numKvHeads = readKvHeads(fields, architecture, numHeads);
  const headDim = readHeadDim(fields, architecture, hiddenSize, numHeads);
  const maxPositions = fields.integer("max_position_embeddings", POSITIONS, defaults.maxPositions);
  const rope = readRopeConfig(fields, architecture, headDim, maxPositions);
  const { scaling } = rope;
  return {
    architecture: architecture.className,
    modelType: architecture.modelType,
    hiddenSize,
    intermediateSize: fields.integer("intermediate_size", SIZE),
    numLayers,
    numHeads,
    numKvHeads,
    headDim,
    vocabSize: fields.integer("vocab_size", VOCABULARY),
    maxContext:
      scaling.type === "longrope"
        ? Math.min(maxPositions, scaling.originalMaxPositions)
        : maxPositions,
    rmsNormEps: fields.number("rms_norm_eps", { min: 0, max: 1 }, defaults.rmsNormEps),
    tiedEmbeddings: fields.boolean("tie_word_embeddings", false),
    rope,
    traits: architecture.traits(fields, numLayers),
  };
}

function findArchitecture(fields: ConfigFields): Architecture {
  const supported = ARCHITECTURES.map(({ className }) => className).join(", ");
  const modelType = fields.string("model_type");
  const names = fields.array("architectures");
  if (names === undefined) {
    const found = ARCHITECTURES.find((architecture) => architecture.modelType === modelType);
    return (
      found ?? fields.unsupported("model_type", ARCHITECTURES.map((a) => a.modelType).join(", "))
    );
  }
  const [name] = names;
  if (names.length !== 1 || typeof name !== "string") {
    return fields.invalid("architectures", "an array of one class name");
  }
  const found = ARCHITECTURES.find(({ className }) => className === name);
  if (found === undefined) {
    throw new ModelError(
      "model_unsupported",
      `architectures in ${FILE} names ${quoted(name)}, which cannot be served; supported: ${supported}`,
      { field: "architectures" },
    );
  }
  if (modelType !== undefined && modelType !== found.modelType) {
    fields.invalid("model_type", `"${found.modelType}" as architectures names ${found.className}`);
  }
  return found;
}

function refuseUnsupported(fields: ConfigFields): void {
  const quantization = fields.object("quantization_config");
  if (quantization !== undefined) {
    const method = quantization.string("quant_method");
    throw new ModelError(
      "model_unsupported",
      `quantization_config in ${FILE} says that the weights are quantised${method === undefined ? "" : ` with ${quoted(method)}`}; ` +
        "supported: weights in F32, F16 or BF16, which --dtype int8 quantises while loading",
      { field: "quantization_config" },
    );
  }
  if (!ACTIVATIONS.includes(fields.string("hidden_act") ?? "silu"))
    fields.unsupported("hidden_act", "silu");
}

function readKvHeads(fields: ConfigFields, { defaults }: Architecture, numHeads: number): number {
  const field = "num_key_value_heads";
  const fallback = fields.isAbsent(field) ? defaults.numKvHeads : null;
  const numKvHeads = fields.integer(field, HEADS, fallback ?? numHeads);
  if (numHeads % numKvHeads !== 0) {
    fields.invalid(
      field,
      `a divisor of num_attention_heads (${numHeads}), which ${numKvHeads} is not`,
    );
  }
  return numKvHeads;
}

function readHeadDim(
  fields: ConfigFields,
  { defaults }: Architecture,
  hiddenSize: number,
  numHeads: number,
): number {
  const field = "head_dim";
  const fallback = fields.isAbsent(field) ? defaults.headDim : null;
  if (!fields.has(field) && fallback === null && hiddenSize % numHeads !== 0) {
    fields.invalid(
      "hidden_size",
      `a multiple of num_attention_heads (${numHeads}) where ${field} is not given`,
    );
  }
  return fields.integer(field, { min: 2, max: 1024 }, fallback ?? hiddenSize / numHeads);
}
