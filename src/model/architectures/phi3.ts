/** Phi-3, Phi-3.5 and Phi-4 (dense): fused projections, and heads of which a part may stay unrotated. */
import type { Architecture } from "../architecture.ts";
import { uniformWindows } from "../windows.ts";

export const phi3: Architecture = {
  className: "Phi3ForCausalLM",
  modelType: "phi3",
  defaults: { numKvHeads: null, headDim: null, maxPositions: 4096, rmsNormEps: 1e-5 },
  ropeTypes: ["default", "longrope"],
  // Files of the first releases say "su", or "yarn" by mistake, for the same rule.
  ropeTypeAliases: { su: "longrope", yarn: "longrope" },
  partialRotary: true,
  traits: (fields, numLayers) => ({
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    headNorms: false,
    fusedProjections: true,
    windows: uniformWindows(fields, numLayers, null),
  }),
};
