/** Names of tensors in a PEFT file: which module, and what of it. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";

export interface PeftKey {
  /** Path of the module in the base model, e.g. `model.layers.0.self_attn.q_proj`. */
  readonly module: string;
  readonly part: LoraPart | ReplacedPart;
  /** A or B of an embedding, which have names of their own. */
  readonly ofEmbedding: boolean;
}

/** What LoRA adds. */
export type LoraPart = "a" | "b" | "bias" | "magnitude";
/**
 * What takes the place of the base's: a weight, one below an adapted layer, a bias in either place, or rows of tokens.
 * `original` is the base's own beside what takes its place, which PEFT writes at times and nobody reads.
 */
export type ReplacedPart = "weight" | "base_weight" | "base_bias" | "tokens" | "original";

/** Longest first. A checkpoint of a whole vision model nests the language model one level deeper. */
const PREFIXES = ["base_model.model.", "base_model.", ""] as const;

/** Where the adapter's name was not stripped. */
const NAME = "(?:\\.[A-Za-z0-9_-]+)?";

/** The first that matches counts. */
const TENSORS: readonly (readonly [RegExp, PeftKey["part"]])[] = [
  [new RegExp(`^(.+)\\.lora_A${NAME}\\.weight$`), "a"],
  [new RegExp(`^(.+)\\.lora_B${NAME}\\.weight$`), "b"],
  [new RegExp(`^(.+)\\.lora_B${NAME}\\.bias$`), "bias"],
  // In the spellings of PEFT's versions.
  [/^(.+)\.(?:lora_magnitude_vector(?:\.(?!weight$)[A-Za-z0-9_-]+)?(?:\.weight)?|weight_m_wdecomp\.weight)$/, "magnitude"],
  [new RegExp(`^(.+)\\.lora_embedding_A${NAME}$`), "a"],
  [new RegExp(`^(.+)\\.lora_embedding_B${NAME}$`), "b"],
  [new RegExp(`^(.+?)(?:\\.token_adapter)?\\.trainable_tokens_delta${NAME}$`), "tokens"],
  [/^(.+?)(?:\.token_adapter)?\.base_layer\.weight$/, "base_weight"],
  [/^(.+)\.base_layer\.bias$/, "base_bias"],
  [new RegExp(`^(.+?)(?:\\.modules_to_save${NAME})?\\.weight$`), "weight"],
  [new RegExp(`^(.+?)(?:\\.modules_to_save${NAME})?\\.bias$`), "base_bias"],
  // A parameter of all experts; those that the base has were taken apart before.
  [new RegExp(`^(.+\\.experts)(?:\\.modules_to_save${NAME})?\\.\\w+_proj$`), "weight"],
];

/** What VeLoRA and MonteCLoRA keep for their next step of training: both are plain LoRA otherwise. */
const TRAINING = /\.lora_(?:velora_embed|monteclora_sampler)(?:\.|$)/;

/** Whether a tensor is for training alone. */
export const isForTraining = (name: string): boolean => TRAINING.test(name);

/** Tensors of forms that are not served, by what marks them. */
const OTHER_FORMS: readonly (readonly [RegExp, string])[] = [
  [/\.lora_diag|\.lora_bottleneck|\.hada_|\.lokr_|\.oft_|\.ia3_/, "of another adapter method; only LoRA is served"],
];

/**
 * @param knows whether the base has a module of that path
 * @throws {AdapterError} `adapter_unsupported` for a form that is not served, `adapter_invalid` for a name that
 *   means nothing
 */
export function parsePeftKey(name: string, knows: (module: string) => boolean): PeftKey {
  const form = OTHER_FORMS.find(([pattern]) => pattern.test(name));
  if (form !== undefined) throw new AdapterError("adapter_unsupported", `tensor ${quoted(name)} is ${form[1]}`);
  // Inside a saved module of several, where `bias` adds the names of all its biases.
  const plain = name.replace(".modules_to_save.default.", ".");
  if (plain.includes(".original_module.")) return { ...parsePeftKey(plain.replace(".original_module.", "."), knows), part: "original" };
  for (const [pattern, part] of TENSORS) {
    const path = pattern.exec(plain)?.[1];
    if (path !== undefined) return { module: strip(path, knows), part, ofEmbedding: name.includes(".lora_embedding_") };
  }
  throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is not a LoRA matrix; names end in .lora_A.weight, .lora_B.weight or .lora_B.bias`);
}

function strip(path: string, knows: (module: string) => boolean): string {
  for (const prefix of PREFIXES) {
    if (!path.startsWith(prefix)) continue;
    const module = path.slice(prefix.length);
    const nested = module.replace(/^model\.language_model\.|^language_model\.model\./, "model.");
    if (knows(module)) return module;
    if (knows(nested)) return nested;
  }
  return path.replace(/^base_model\.model\./, "");
}
