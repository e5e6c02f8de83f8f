/** `model_config.yaml` of a NeMo archive: how its tensors are laid out and scaled. */
import { AdapterError } from "../core/errors.ts";
import { isJsonObject, type JsonObject, type JsonValue } from "../formats/json.ts";
import type { Program } from "../model/program.ts";

/**
 * Rows of a fused query, key and value matrix: by head group (its queries, its key, its value) as Megatron keeps
 * them, or all queries, all keys, all values.
 */
export type QkvLayout = "megatron" | "sequential";

export const NEMO_TARGETS = ["attention_qkv", "attention_dense", "mlp_fc1", "mlp_fc2"] as const;
export type NemoTarget = (typeof NEMO_TARGETS)[number];

export interface NemoConfig {
  readonly layout: QkvLayout;
  /** `null` scales by 1. */
  readonly alpha: number | null;
  /** As the file says; the tensors must agree. */
  readonly rank: number | null;
  readonly tensorParallel: number;
  readonly pipelineParallel: number;
  readonly targets: ReadonlySet<NemoTarget>;
  /** Layers that were trained, from 0; `null` for all. */
  readonly layers: ReadonlySet<number> | null;
}

const MAX_PARALLEL = 1024;

/** Names that stand for several. */
const TARGET_GROUPS: Readonly<Record<string, readonly NemoTarget[]>> = {
  attention_qkv: ["attention_qkv"],
  attention_dense: ["attention_dense"],
  mlp_fc1: ["mlp_fc1"],
  mlp_fc2: ["mlp_fc2"],
  attention: ["attention_qkv", "attention_dense"],
  mlp: ["mlp_fc1", "mlp_fc2"],
  all: NEMO_TARGETS,
  // The spelling of archives that were written for TensorRT-LLM.
  attn_qkv: ["attention_qkv"],
};

/**
 * Real archives carry Megatron's configuration at the top level. Archives without it were written for TensorRT-LLM,
 * which reads rows sequentially and applies no alpha.
 *
 * @throws {AdapterError} `adapter_invalid` naming the field, or where the archive is for another base
 */
export function parseNemoConfig(yaml: JsonValue, program: Program, layout: QkvLayout | "auto"): NemoConfig {
  if (!isJsonObject(yaml)) throw invalid("the file", "must be a map");
  const isMegatron = yaml["num_attention_heads"] !== undefined || yaml["peft"] !== undefined;
  const model = isMegatron ? yaml : section(yaml, "model");
  checkBase(model, program);
  const peft = section(yaml, "peft");
  const scheme = peft["peft_scheme"] ?? "lora";
  if (scheme !== "lora") throw unsupported("peft.peft_scheme", `is ${JSON.stringify(scheme)}; only "lora" is served`);
  const tuning = isMegatron ? section(peft, "lora_tuning") : section(yaml, "lora");
  if (tuning["weight_tying"] === true) {
    throw unsupported("peft.lora_tuning.weight_tying", "is set: layers that share an adapter are not served; retrain without it");
  }
  const alpha = tuning["alpha"] ?? null;
  return {
    layout: layout === "auto" ? (isMegatron ? "megatron" : "sequential") : layout,
    alpha: isMegatron && alpha !== null ? positive(alpha, "peft.lora_tuning.alpha") : null,
    rank: optionalCount(tuning["adapter_dim"] ?? tuning["rank"], "adapter_dim"),
    tensorParallel: parallel(yaml, "tensor_model_parallel_size"),
    pipelineParallel: parallel(yaml, "pipeline_model_parallel_size"),
    targets: targetsOf(tuning["target_modules"]),
    layers: layersOf(tuning["layer_selection"], program.numLayers),
  };
}

/** What the archive says about the base must be true of the one that is served. */
function checkBase(model: JsonObject, { hiddenSize, numLayers, attention }: Program): void {
  const heads = optionalCount(model["num_attention_heads"], "num_attention_heads");
  const stated: readonly (readonly [string, number | null, number])[] = [
    ["hidden_size", optionalCount(model["hidden_size"], "hidden_size"), hiddenSize],
    ["num_layers", optionalCount(model["num_layers"], "num_layers"), numLayers],
    ["num_attention_heads", heads, attention.numHeads],
    // Left out, every head has a key and a value of its own.
    ["num_query_groups", optionalCount(model["num_query_groups"], "num_query_groups") ?? heads, attention.numKvHeads],
    ["kv_channels", optionalCount(model["kv_channels"], "kv_channels"), attention.headDim],
  ];
  for (const [field, value, needed] of stated) {
    if (value !== null && value !== needed) throw invalid(field, `is ${value}, but the base model has ${needed}; the adapter is for another model`);
  }
}

function targetsOf(value: JsonValue | undefined): ReadonlySet<NemoTarget> {
  const names = typeof value === "string" ? [value] : (value ?? ["attention_qkv"]);
  if (!Array.isArray(names) || names.length === 0 || names.length > 64) throw invalid("target_modules", "must be a list of 1 to 64 names");
  return new Set(
    names.flatMap((name: JsonValue) => {
      if (typeof name === "string" && Object.hasOwn(TARGET_GROUPS, name)) return TARGET_GROUPS[name]!;
      throw invalid("target_modules", `has ${shown(name)}; names are ${Object.keys(TARGET_GROUPS).join(", ")}`);
    }),
  );
}

/** NeMo counts layers from 1. */
function layersOf(value: JsonValue | undefined, numLayers: number): ReadonlySet<number> | null {
  if (value === undefined || value === null) return null;
  if (!Array.isArray(value) || value.length === 0 || value.length > numLayers) {
    throw invalid("layer_selection", `must be a list of 1 to ${numLayers} layers, got ${shown(value)}`);
  }
  return new Set(
    value.map((layer: JsonValue) => {
      if (typeof layer === "number" && Number.isInteger(layer) && layer >= 1 && layer <= numLayers) return layer - 1;
      throw invalid("layer_selection", `must hold layers from 1 to ${numLayers}, got ${shown(layer)}`);
    }),
  );
}

function section(yaml: JsonObject, field: string): JsonObject {
  const value = yaml[field] ?? null;
  if (value === null) return {};
  if (!isJsonObject(value)) throw invalid(field, `must be a map, got ${shown(value)}`);
  return value;
}

function parallel(yaml: JsonObject, field: string): number {
  const size = optionalCount(yaml[field], field) ?? 1;
  if (size > MAX_PARALLEL) throw invalid(field, `is ${size}; at most ${MAX_PARALLEL} parts are merged`);
  return size;
}

function optionalCount(value: JsonValue | undefined, field: string): number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 1) return value;
  throw invalid(field, `must be a whole number from 1 up, got ${shown(value)}`);
}

function positive(value: JsonValue, field: string): number {
  if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
  throw invalid(field, `must be a number above 0, got ${shown(value)}`);
}

const shown = (value: JsonValue): string => JSON.stringify(value).slice(0, 60);

const invalid = (field: string, problem: string): AdapterError =>
  new AdapterError("adapter_invalid", `model_config.yaml: ${field} ${problem}`, { field });
const unsupported = (field: string, problem: string): AdapterError =>
  new AdapterError("adapter_unsupported", `model_config.yaml: ${field} ${problem}`, { field });
