/** Small mixtures of experts of many shapes, for tests of backends. */
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";
import type { Program } from "../../src/model/program.ts";
import { type Json, tinyConfig } from "./model-files.ts";

export const MIXTRAL = { architectures: ["MixtralForCausalLM"], model_type: "mixtral", vocab_size: 61, num_local_experts: 4, num_experts_per_tok: 2 };
export const QWEN = { architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", vocab_size: 61, num_experts: 6, num_experts_per_tok: 3, moe_intermediate_size: 12 };

/** @param changes fields of `config.json` beyond those of `tinyConfig` */
export const expertProgram = (changes: Record<string, Json>): Program =>
  buildDecoderProgram(parseModelConfig(tinyConfig({ max_position_embeddings: 256, ...changes })));

export const EXPERT_SHAPES: Readonly<Record<string, Record<string, Json>>> = {
  Mixtral: MIXTRAL,
  "one expert": { ...MIXTRAL, num_local_experts: 1, num_experts_per_tok: 1 },
  "every expert for every row": { ...MIXTRAL, num_experts_per_tok: 4 },
  "widths that fill no panel and no vector": { ...MIXTRAL, hidden_size: 34, intermediate_size: 13, num_local_experts: 7, num_experts_per_tok: 3 },
  "outputs wider than a claim of a sum": { ...MIXTRAL, hidden_size: 516, num_hidden_layers: 1 },
  "Qwen, shares as they are": QWEN,
  "Qwen, shares normalized": { ...QWEN, norm_topk_prob: true },
  "Qwen, dense and sparse layers": { ...QWEN, num_hidden_layers: 3, decoder_sparse_step: 2 },
  "many experts, few of them busy": { ...QWEN, num_experts: 130, num_experts_per_tok: 8 },
};
