/** `adapter_config.json` of PEFT 0.21 and before: every field is used, known to be harmless, or refused by name. */
import { AdapterError } from "../core/errors.ts";
import { isJsonObject, type JsonObject, type JsonValue, nameJsonType } from "../formats/json.ts";

export interface AdapterConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly useRslora: boolean;
  /** Every B has a bias behind it. */
  readonly loraBias: boolean;
  /** Every module has a magnitude. */
  readonly useDora: boolean;
  readonly targetModules: ModuleNames;
  readonly excludeModules: ModuleNames | null;
  /** Last parts of the names of parameters that have an adapter, of whatever module. */
  readonly targetParameters: readonly string[];
  /** In file order: the first pattern that matches a module's path decides. */
  readonly rankPattern: readonly (readonly [pattern: string, rank: number])[];
  readonly alphaPattern: readonly (readonly [pattern: string, alpha: number])[];
  /** Modules that the adapter has whole: ends of their paths, or of those of modules around them. */
  readonly modulesToSave: readonly string[];
  /** Rows of embedding and head that the adapter has, by the end of the module's path, in the order of their tensor. */
  readonly trainedTokens: ReadonlyMap<string, readonly number[]>;
  /** Which biases of the base the adapter has. */
  readonly bias: "none" | "all" | "lora_only";
  /** Where the base's embedding and head are one matrix, what is named of the one is there for both. */
  readonly ensureWeightTying: boolean;
  /** Layers that were trained; `null` for all. */
  readonly layers: readonly number[] | null;
  /** Names of the layer list that `layers` indexes; `null` for any. */
  readonly layersPattern: readonly string[] | null;
  /** Activated LoRA: it acts from the last occurrence of these ids in a prompt on; `null` for on every token. */
  readonly invocation: readonly number[] | null;
  /** Name of the model it was trained on, as far as the file tells. */
  readonly baseModel: string | null;
  readonly warnings: readonly string[];
}

/** How PEFT names modules: by their last parts, by a pattern for the whole path, or all linear layers. */
export type ModuleNames =
  | { readonly kind: "names"; readonly names: readonly string[] }
  | { readonly kind: "pattern"; readonly pattern: string }
  | { readonly kind: "all-linear" };

/** Most characters of a pattern, and entries of a list or map of patterns. */
const MAX_PATTERN_CHARS = 4096;
const MAX_PATTERNS = 16_384;
const MAX_RANK = 65_536;
const MAX_INVOCATION_TOKENS = 1024;
/** Above any vocabulary. */
const MAX_TOKENS = 4_194_304;

/**
 * Fields that only training reads, or that say nothing about the tensors. `fan_in_fan_out` is of layers that keep their
 * matrix transposed, which no base served here has: PEFT itself sets it aside for others.
 */
const HARMLESS = new Set([
  "auto_mapping", "peft_version", "revision", "inference_mode", "task_type", "lora_dropout", "loftq_config",
  "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size", "velora_config", "monteclora_config", "runtime_config",
  "enable_lora", "merge_weights", "fan_in_fan_out", "base_model_name_or_path", "peft_type",
]);

const USED = new Set([
  "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern",
  "layers_to_transform", "layers_pattern", "init_lora_weights", "lora_bias", "use_dora", "target_parameters",
  "alora_invocation_tokens", "modules_to_save", "trainable_token_indices", "bias", "ensure_weight_tying",
]);

const isSet = (value: JsonValue | undefined): boolean =>
  !(value === undefined || value === null || value === false || isEmpty(value));
const isEmpty = (value: JsonValue): boolean =>
  (Array.isArray(value) && value.length === 0) || (isJsonObject(value) && Object.keys(value).length === 0);

/** What a set field would need, and the way out. */
const UNSUPPORTED: Readonly<Record<string, string>> = {
  layer_replication: "a deeper model of repeated layers cannot share this base; merge the adapter into its own model",
  use_qalora: "QA-LoRA pools its input, which this base does not; merge the adapter, or retrain without use_qalora",
  arrow_config: "Arrow mixes several adapters; serve them one by one",
  megatron_config: "layers of Megatron's are split over devices, which this base's are not; retrain with PEFT's own layers",
  use_bdlora: "block-diagonal LoRA is not served; retrain without use_bdlora",
  kasa_config: "KaSA adapters are not served; retrain without kasa_config",
};

/** Initialisations that change the base weights, so that the adapter only fits the changed base. */
const CHANGED_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

/**
 * @throws {AdapterError} `adapter_invalid` naming the field; `adapter_unsupported` for what is not served
 */
export function parseAdapterConfig(json: JsonObject): AdapterConfig {
  const peftType = json["peft_type"];
  if (peftType !== "LORA") {
    throw peftType === undefined
      ? invalid("peft_type", "is missing; it must be \"LORA\"")
      : unsupported("peft_type", `${show(peftType)} is not served; only "LORA" adapters are`);
  }
  for (const [field, problem] of Object.entries(UNSUPPORTED)) {
    if (isSet(json[field])) throw unsupported(field, `is set: ${problem}`);
  }
  const initial = json["init_lora_weights"];
  if (typeof initial === "string" && CHANGED_BASE.test(initial.toLowerCase())) {
    throw unsupported(
      "init_lora_weights",
      `is ${show(initial)}, which changes the base weights; save the adapter converted to plain LoRA ` +
        "(path_initial_model_for_weight_conversion of save_pretrained)",
    );
  }
  if (json["use_dora"] === true && json["lora_bias"] === true) throw unsupported("lora_bias", "is set together with use_dora, which PEFT does not train");
  const invocation = invocationTokens(json["alora_invocation_tokens"]);
  if (invocation !== null) refuseBeforeInvocation(json);
  const layers = layerList(json["layers_to_transform"]);
  const targetParameters = parameterNames(json["target_parameters"]);
  const targetModules = targetParameters.length > 0 && !isSet(json["target_modules"]) ? NO_MODULES : moduleNames(json["target_modules"], "target_modules");
  if (targetModules === null) throw invalid("target_modules", "is missing; it must be a list of names, a pattern, or \"all-linear\"");
  if (layers !== null && targetModules.kind === "pattern") {
    throw invalid("layers_to_transform", "cannot be combined with a pattern in target_modules; put the layers into the pattern");
  }
  return {
    rank: integer(json["r"] ?? 8, "r", 1, MAX_RANK),
    alpha: positive(json["lora_alpha"] ?? 8, "lora_alpha"),
    useRslora: boolean(json["use_rslora"], "use_rslora"),
    loraBias: boolean(json["lora_bias"], "lora_bias"),
    useDora: boolean(json["use_dora"], "use_dora"),
    targetModules,
    targetParameters,
    excludeModules: moduleNames(json["exclude_modules"], "exclude_modules"),
    modulesToSave: nameList(json["modules_to_save"], "modules_to_save") ?? [],
    trainedTokens: trainedTokens(json["trainable_token_indices"]),
    bias: biasRule(json["bias"] ?? "none"),
    ensureWeightTying: boolean(json["ensure_weight_tying"], "ensure_weight_tying"),
    rankPattern: patterns(json["rank_pattern"], "rank_pattern", (value, field) => integer(value, field, 1, MAX_RANK)),
    alphaPattern: patterns(json["alpha_pattern"], "alpha_pattern", positive),
    layers,
    layersPattern: orNull(nameList(json["layers_pattern"], "layers_pattern")),
    invocation,
    baseModel: typeof json["base_model_name_or_path"] === "string" ? json["base_model_name_or_path"] : null,
    warnings: Object.keys(json)
      .filter((field) => !HARMLESS.has(field) && !USED.has(field) && !(field in UNSUPPORTED))
      .filter((field) => isSet(json[field]))
      .map((field) => `adapter_config.json has the unknown field ${show(field)}, which was ignored`),
  };
}

/** PEFT takes an empty list for none. */
function invocationTokens(value: JsonValue | undefined): readonly number[] | null {
  const field = "alora_invocation_tokens";
  if (!isSet(value)) return null;
  if (!Array.isArray(value)) throw invalid(field, `must be a list of token ids, got ${nameJsonType(value!)}`);
  if (value.length > MAX_INVOCATION_TOKENS) throw invalid(field, `has ${value.length} entries; at most ${MAX_INVOCATION_TOKENS} are read`);
  return value.map((id: JsonValue) => integer(id, field, 0, 2 ** 31 - 1));
}

/** What PEFT does not train together with an invocation, or applies to the tokens before it as well. */
function refuseBeforeInvocation(json: JsonObject): void {
  for (const field of ["use_dora", "target_parameters", "modules_to_save", "trainable_token_indices", "bias"]) {
    if (!isSet(json[field]) || json[field] === "none") continue;
    throw unsupported("alora_invocation_tokens", `is set together with ${field}; an adapter that acts from its invocation on has low-rank matrices only`);
  }
}

function biasRule(value: JsonValue): AdapterConfig["bias"] {
  if (value === "none" || value === "all" || value === "lora_only") return value;
  throw invalid("bias", `must be "none", "all" or "lora_only", got ${show(value)}`);
}

/** A list is for the embedding. */
function trainedTokens(value: JsonValue | undefined): ReadonlyMap<string, readonly number[]> {
  const field = "trainable_token_indices";
  if (value === undefined || !isSet(value)) return new Map();
  if (Array.isArray(value)) return new Map([["embed_tokens", tokenList(value, field)]]);
  if (isJsonObject(value)) return new Map(Object.entries(value).map(([name, list]) => [name, tokenList(list ?? null, `${field}[${show(name)}]`)]));
  throw invalid(field, `must be a list of token ids, or an object of such lists, got ${nameJsonType(value)}`);
}

function tokenList(value: JsonValue, field: string): readonly number[] {
  if (!Array.isArray(value) || value.length === 0) throw invalid(field, `must be a list of token ids, got ${show(value)}`);
  if (value.length > MAX_TOKENS) throw invalid(field, `has ${value.length} entries; at most ${MAX_TOKENS} are read`);
  const ids = value.map((id: JsonValue) => integer(id, field, 0, MAX_TOKENS));
  if (new Set(ids).size < ids.length) throw invalid(field, "names a token twice");
  return ids;
}

function parameterNames(value: JsonValue | undefined): readonly string[] {
  if (!isSet(value)) return [];
  // A single string would be a pattern elsewhere; PEFT knows none here.
  if (!Array.isArray(value)) throw invalid("target_parameters", `must be a list of strings, got ${nameJsonType(value!)}`);
  return nameList(value, "target_parameters") ?? [];
}

const NO_MODULES: ModuleNames = { kind: "names", names: [] };

function moduleNames(value: JsonValue | undefined, field: string): ModuleNames | null {
  // PEFT takes an empty pattern for none at all; a target_modules of "" is refused where it is missed.
  if (value === undefined || value === null || value === "") return null;
  if (typeof value === "string") {
    if (value.toLowerCase() === "all-linear") return { kind: "all-linear" };
    if (value.length > MAX_PATTERN_CHARS) {
      throw invalid(field, `must be a pattern of 1 to ${MAX_PATTERN_CHARS} characters, got ${value.length}`);
    }
    return { kind: "pattern", pattern: value };
  }
  const names = nameList(value, field);
  if (names === null || names.length === 0) {
    if (field === "exclude_modules") return null;
    throw invalid(field, "is empty; it must name at least one module");
  }
  return { kind: "names", names };
}

function nameList(value: JsonValue | undefined, field: string): readonly string[] | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value === "" ? [] : [value];
  if (!Array.isArray(value)) throw invalid(field, `must be a string or a list of strings, got ${nameJsonType(value)}`);
  if (value.length > MAX_PATTERNS) throw invalid(field, `has ${value.length} entries; at most ${MAX_PATTERNS} are read`);
  return value.map((name: JsonValue) => {
    if (typeof name === "string" && name !== "" && name.length <= MAX_PATTERN_CHARS) return name;
    throw invalid(field, `must hold non-empty strings, got ${show(name)}`);
  });
}

function layerList(value: JsonValue | undefined): readonly number[] | null {
  if (value === undefined || value === null) return null;
  const list: readonly JsonValue[] = Array.isArray(value) ? value : [value];
  if (list.length > MAX_PATTERNS) throw invalid("layers_to_transform", `has ${list.length} entries; at most ${MAX_PATTERNS} are read`);
  return orNull(list.map((layer) => integer(layer, "layers_to_transform", 0, 100_000)));
}

/** PEFT writes an empty list where it means no choice. */
const orNull = <T>(list: readonly T[] | null): readonly T[] | null => (list === null || list.length === 0 ? null : list);

function patterns(
  value: JsonValue | undefined,
  field: string,
  read: (value: JsonValue, field: string) => number,
): (readonly [string, number])[] {
  if (value === undefined || value === null) return [];
  if (!isJsonObject(value)) throw invalid(field, `must be an object of patterns, got ${nameJsonType(value)}`);
  const entries = Object.entries(value);
  if (entries.length > MAX_PATTERNS) throw invalid(field, `has ${entries.length} entries; at most ${MAX_PATTERNS} are read`);
  return entries.map(([pattern, each]) => {
    if (pattern === "" || pattern.length > MAX_PATTERN_CHARS) throw invalid(field, `has a pattern of ${pattern.length} characters`);
    return [pattern, read(each ?? null, `${field}[${show(pattern)}]`)] as const;
  });
}

function integer(value: JsonValue, field: string, min: number, max: number): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
  throw invalid(field, `must be a whole number from ${min} to ${max}, got ${show(value)}`);
}

function positive(value: JsonValue, field: string): number {
  if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
  throw invalid(field, `must be a number above 0, got ${show(value)}`);
}

function boolean(value: JsonValue | undefined, field: string): boolean {
  if (value === undefined || value === null) return false;
  if (typeof value === "boolean") return value;
  throw invalid(field, `must be true or false, got ${show(value)}`);
}

/** A value as it would stand in the file, shortened. */
const show = (value: JsonValue): string => {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
};

const invalid = (field: string, problem: string): AdapterError =>
  new AdapterError("adapter_invalid", `adapter_config.json: ${field} ${problem}`, { field });
const unsupported = (field: string, problem: string): AdapterError =>
  new AdapterError("adapter_unsupported", `adapter_config.json: ${field} ${problem}`, { field });
