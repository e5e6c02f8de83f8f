/** Mistral 7B and its family: Llama without biases, with a sliding window in every layer or none. */
import type { Architecture } from "../architecture.ts";
import { uniformWindows } from "../windows.ts";

export const mistral: Architecture = {
  className: "MistralForCausalLM",
  modelType: "mistral",
  defaults: { numKvHeads: 8, headDim: null, maxPositions: 131_072, rmsNormEps: 1e-6 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits: (fields, numLayers) => ({
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    headNorms: false,
    fusedProjections: false,
    windows: uniformWindows(fields, numLayers, 4096),
  }),
};
