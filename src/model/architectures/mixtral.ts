/** Mixtral: Mistral with experts in place of every MLP. */
import type { Architecture } from "../architecture.ts";
import { routingFields } from "../routing-fields.ts";
import { uniformWindows } from "../windows.ts";

export const mixtral: Architecture = {
  className: "MixtralForCausalLM",
  modelType: "mixtral",
  defaults: { numKvHeads: 8, headDim: null, maxPositions: 131_072, rmsNormEps: 1e-5, ropeTheta: 1_000_000 },
  ropeTypes: ["default", "linear", "llama3"],
  partialRotary: false,
  traits: (fields, numLayers) => ({
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    headNorms: false,
    fusedProjections: false,
    experts: {
      ...routingFields(fields, { numExperts: 8, topK: 2 }),
      width: fields.integer("intermediate_size", { min: 1, max: 1_048_576 }),
      normalize: true,
      sparse: Array.from({ length: numLayers }, () => true),
      block: "block_sparse_moe",
      projections: { gate: "w1", up: "w3", down: "w2" },
    },
    windows: uniformWindows(fields, numLayers, null),
  }),
};
