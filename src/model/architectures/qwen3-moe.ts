/** Qwen3 with experts in every layer, in every n-th, or in all but some. */
import type { Architecture } from "../architecture.ts";
import { routingFields, sparseLayers } from "../routing-fields.ts";
import { noWindows, uniformWindows } from "../windows.ts";

export const qwen3Moe: Architecture = {
  className: "Qwen3MoeForCausalLM",
  modelType: "qwen3_moe",
  defaults: { numKvHeads: 4, headDim: null, maxPositions: 32_768, rmsNormEps: 1e-6 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits(fields, numLayers) {
    const attentionBias = fields.boolean("attention_bias", false);
    const sparse = sparseLayers(fields, numLayers);
    return {
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      fusedProjections: false,
      ...(sparse.includes(true) && {
        experts: {
          ...routingFields(fields, { numExperts: 128, topK: 8 }),
          width: fields.integer("moe_intermediate_size", { min: 1, max: 1_048_576 }, 768),
          normalize: fields.boolean("norm_topk_prob", false),
          sparse,
          block: "mlp",
          projections: { gate: "gate_proj", up: "up_proj", down: "down_proj" },
        },
      }),
      windows: fields.boolean("use_sliding_window", false)
        ? uniformWindows(fields, numLayers, 4096)
        : noWindows(fields, numLayers),
    };
  },
};
