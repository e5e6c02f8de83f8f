/** Llama 1 to 3.3, and the many models that use its class. */
import type { Architecture } from "../architecture.ts";
import { noWindows } from "../windows.ts";

export const llama: Architecture = {
  className: "LlamaForCausalLM",
  modelType: "llama",
  defaults: { numKvHeads: null, headDim: null, maxPositions: 2048, rmsNormEps: 1e-6 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits(fields, numLayers) {
    const attentionBias = fields.boolean("attention_bias", false);
    return {
      qkvBias: attentionBias,
      outputBias: attentionBias,
      mlpBias: fields.boolean("mlp_bias", false),
      headNorms: false,
      fusedProjections: false,
      windows: noWindows(fields, numLayers),
    };
  },
};
