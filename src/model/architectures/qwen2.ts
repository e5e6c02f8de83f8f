/** Qwen2 and Qwen2.5: biases on q, k and v, never on o. */
import type { Architecture } from "../architecture.ts";
import { layeredWindows } from "../windows.ts";

export const qwen2: Architecture = {
  className: "Qwen2ForCausalLM",
  modelType: "qwen2",
  defaults: { numKvHeads: 32, headDim: null, maxPositions: 32_768, rmsNormEps: 1e-6 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits: (fields, numLayers) => ({
    qkvBias: true,
    outputBias: false,
    mlpBias: false,
    headNorms: false,
    fusedProjections: false,
    windows: layeredWindows(fields, numLayers),
  }),
};
