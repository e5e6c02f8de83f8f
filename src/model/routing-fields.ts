/** Fields of `config.json` that say which layers have experts, how many, and how many a row is given. */
import type { ConfigFields } from "./config-fields.ts";
import type { Routing } from "./program.ts";

const MAX_EXPERTS = 1024;
const MAX_LAYERS = 1024;

/** @param defaults where the fields are absent */
export function routingFields(fields: ConfigFields, defaults: Routing): Routing {
  const numExperts = readNumExperts(fields, 1, defaults.numExperts);
  const topK = fields.integer("num_experts_per_tok", { min: 1, max: numExperts }, Math.min(defaults.topK, numExperts));
  return { numExperts, topK };
}

/**
 * Whether each layer has experts, as Qwen says it: every `decoder_sparse_step`-th layer but those of
 * `mlp_only_layers`, and none where there are no experts.
 */
export function sparseLayers(fields: ConfigFields, numLayers: number): boolean[] {
  const numExperts = readNumExperts(fields, 0, 128);
  const sparseStep = fields.integer("decoder_sparse_step", { min: 1, max: MAX_LAYERS }, 1);
  const dense = new Set(
    (fields.array("mlp_only_layers") ?? []).map((layer) =>
      typeof layer === "number" && Number.isInteger(layer) && layer >= 0 ? layer : fields.invalid("mlp_only_layers", "an array of layer numbers"),
    ),
  );
  return Array.from({ length: numLayers }, (_, layer) => numExperts > 0 && !dense.has(layer) && (layer + 1) % sparseStep === 0);
}

/** transformers 4 writes `num_experts` where 5 writes `num_local_experts`, and Mixtral always did. */
function readNumExperts(fields: ConfigFields, min: number, fallback: number): number {
  const [name = "num_local_experts", other] = ["num_local_experts", "num_experts"].filter((each) => fields.has(each));
  const numExperts = fields.integer(name, { min, max: MAX_EXPERTS }, fallback);
  if (other !== undefined && fields.value(other) !== numExperts) fields.invalid(other, `equal to ${name} (${numExperts}), which means the same`);
  return numExperts;
}
