/** Adapters of the demo model that nobody trained, in forms that its own adapters do not have. */
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeSafetensors, type RawTensor } from "./adapter-files.ts";
import { numbers, randomMatrix } from "./tiny-program.ts";

const HIDDEN = 256;
const VOCAB = 4096;
const RANK = 6;
const TOKENS = Array.from({ length: 300 }, (_, i) => i * 7 + 3);

type Kind = "embeddings" | "whole" | "tokens";
export const MADE_UP: readonly Kind[] = ["embeddings", "whole", "tokens"];

/** @returns a directory with a directory for each of `MADE_UP` */
export function writeMadeUpAdapters(): string {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-made-up-"));
  MADE_UP.forEach((kind, seed) => {
    const { config, tensors } = make(kind, numbers(seed + 1));
    const to = join(directory, kind);
    mkdirSync(to);
    writeFileSync(join(to, "adapter_config.json"), JSON.stringify({ peft_type: "LORA", r: RANK, lora_alpha: 12, ...config }));
    writeFileSync(join(to, "adapter_model.safetensors"), encodeSafetensors(new Map(Object.entries(tensors).map(([name, tensor]) => [`base_model.model.${name}`, tensor]))));
  });
  return directory;
}

function make(kind: Kind, random: () => number): { readonly config: object; readonly tensors: Record<string, RawTensor> } {
  const matrix = (rows: number, cols: number, scale: number, dtype: "F32" | "BF16" = "BF16"): RawTensor => {
    const { bytes } = randomMatrix(rows, cols, scale, dtype, random);
    return { dtype, shape: [rows, cols], bytes };
  };
  const norm = (): RawTensor => {
    const values = Float32Array.from({ length: HIDDEN }, () => 1 + 0.3 * random());
    return { dtype: "F32", shape: [HIDDEN], bytes: new Uint8Array(values.buffer) };
  };
  const q = Object.fromEntries(
    [0, 1, 2, 3, 4, 5].flatMap((layer) => {
      const path = `model.layers.${layer}.self_attn.q_proj.lora`;
      return [[`${path}_A.weight`, matrix(RANK, HIDDEN, 0.05)], [`${path}_B.weight`, matrix(HIDDEN, RANK, 0.05)]];
    }),
  ) as Record<string, RawTensor>;
  switch (kind) {
    case "embeddings":
      return {
        config: { target_modules: ["q_proj", "embed_tokens", "lm_head"] },
        tensors: {
          ...q,
          "model.embed_tokens.lora_embedding_A": matrix(RANK, VOCAB, 0.1, "F32"),
          "model.embed_tokens.lora_embedding_B": matrix(HIDDEN, RANK, 0.1, "F32"),
          "lm_head.lora_A.weight": matrix(RANK, HIDDEN, 0.1),
          "lm_head.lora_B.weight": matrix(VOCAB, RANK, 0.1),
        },
      };
    case "whole":
      return {
        config: { target_modules: ["q_proj"], modules_to_save: ["lm_head", "embed_tokens", "model.norm", "layers.2.input_layernorm"] },
        tensors: { ...q, "lm_head.weight": matrix(VOCAB, HIDDEN, 0.1), "model.embed_tokens.weight": matrix(VOCAB, HIDDEN, 0.1), "model.norm.weight": norm(), "model.layers.2.input_layernorm.weight": norm() },
      };
    case "tokens":
      return {
        config: { target_modules: ["q_proj"], trainable_token_indices: TOKENS },
        tensors: { ...q, "model.embed_tokens.token_adapter.trainable_tokens_delta": matrix(TOKENS.length, HIDDEN, 0.1, "F32") },
      };
  }
}
