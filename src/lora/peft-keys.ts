/** Names of tensors in a PEFT file: which module, and A, B, its bias or magnitude. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";

export interface PeftKey {
  /** Path of the module in the base model, e.g. `model.layers.0.self_attn.q_proj`. */
  readonly module: string;
  readonly part: "a" | "b" | "bias" | "magnitude";
}

/** Longest first. A checkpoint of a whole vision model nests the language model one level deeper. */
const PREFIXES = ["base_model.model.", "base_model.", ""] as const;

/** `.weight`, or `.default.weight` where the adapter's name was not stripped. */
const LORA_TENSOR = /^(.+)\.lora_(?:([AB])(?:\.[A-Za-z0-9_-]+)?\.weight|B(?:\.[A-Za-z0-9_-]+)?\.bias)$/;

/** DoRA's magnitude, in the spellings of PEFT's versions. */
const MAGNITUDE = /^(.+)\.(?:lora_magnitude_vector(?:\.(?!weight$)[A-Za-z0-9_-]+)?(?:\.weight)?|weight_m_wdecomp\.weight)$/;

/** Tensors of forms that are not served, by what marks them. */
const OTHER_FORMS: readonly (readonly [RegExp, string])[] = [
  [/\.lora_embedding_[AB]/, "an embedding adapter; adapters on embeddings are not served yet"],
  [/\.modules_to_save\./, "a replaced module; modules_to_save is not served yet"],
  [/trainable_tokens/, "trained token embeddings, which are not served yet"],
  [/\.base_layer\.(weight|bias)$/, "a copy of a base weight; changed base weights are not served yet"],
  [/\.bias$/, "a trained base bias; bias other than \"none\" is not served yet"],
  [/(^|\.)(lm_head|embed_tokens|norm|input_layernorm|post_attention_layernorm|score)\.weight$/, "a replaced module; modules_to_save is not served yet"],
  [/\.lora_diag|\.lora_bottleneck|\.hada_|\.lokr_|\.oft_|\.ia3_/, "of another adapter method; only LoRA is served"],
];

/**
 * @param knows whether the base has a module of that path
 * @throws {AdapterError} `adapter_unsupported` for a form that is not served, `adapter_invalid` for a name that
 *   means nothing
 */
export function parsePeftKey(name: string, knows: (module: string) => boolean): PeftKey {
  const match = LORA_TENSOR.exec(name) ?? MAGNITUDE.exec(name);
  if (match !== null) {
    const module = strip(match[1]!, knows);
    if (/(^|\.)(lm_head|embed_tokens)$/.test(module)) {
      throw new AdapterError("adapter_unsupported", `tensor ${quoted(name)} adapts ${module.split(".").at(-1)}, which is not served yet`);
    }
    return { module, part: match[2] === "A" ? "a" : match[2] === "B" ? "b" : name.endsWith(".bias") ? "bias" : "magnitude" };
  }
  const form = OTHER_FORMS.find(([pattern]) => pattern.test(name));
  if (form !== undefined) throw new AdapterError("adapter_unsupported", `tensor ${quoted(name)} is ${form[1]}`);
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
