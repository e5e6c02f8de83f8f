/** Qwen3, dense: norms on the heads of q and k, and a head size of its own. */
import type { Architecture } from "../architecture.ts";
import { layeredWindows } from "../windows.ts";

export const qwen3: Architecture = {
  className: "Qwen3ForCausalLM",
  modelType: "qwen3",
  defaults: { numKvHeads: 32, headDim: 128, maxPositions: 32_768, rmsNormEps: 1e-6 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits(fields, numLayers) {
    const attentionBias = fields.boolean("attention_bias", false);
    return {
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: false,
      headNorms: true,
      fusedProjections: false,
      windows: layeredWindows(fields, numLayers),
    };
  },
};
