/** Which layers attend over a sliding window, from the several fields that say so. */
import type { ConfigFields } from "./config-fields.ts";

const MAX_WINDOW = 2 ** 31 - 1;

/** The same window in every layer, as Mistral and Phi-3 have it; `fallback` when the field is absent. */
export function uniformWindows(
  fields: ConfigFields,
  numLayers: number,
  fallback: number | null,
): (number | null)[] {
  const window = readWindow(fields, fallback);
  const types = readLayerTypes(fields, numLayers);
  if (types?.some((isSliding) => isSliding !== (window !== null))) {
    fields.unsupported(
      "layer_types",
      "layers that agree with sliding_window for this architecture",
    );
  }
  return Array.from({ length: numLayers }, () => window);
}

/** No window anywhere. */
export function noWindows(fields: ConfigFields, numLayers: number): null[] {
  if (readLayerTypes(fields, numLayers)?.includes(true)) {
    fields.unsupported("layer_types", "full_attention in every layer for this architecture");
  }
  return Array.from({ length: numLayers }, () => null);
}

/** Windows as Qwen has them: switched on by a flag, by `layer_types` or from `max_window_layers` upwards. */
export function layeredWindows(fields: ConfigFields, numLayers: number): (number | null)[] {
  const window = fields.boolean("use_sliding_window", false) ? readWindow(fields, 4096) : null;
  const types = readLayerTypes(fields, numLayers);
  if (types === undefined) {
    const first = fields.integer("max_window_layers", { min: 0, max: MAX_WINDOW }, 28);
    return Array.from({ length: numLayers }, (_, layer) => (layer >= first ? window : null));
  }
  if (window === null && types.includes(true)) {
    fields.invalid(
      "layer_types",
      "full_attention in every layer while use_sliding_window is off or sliding_window is null",
    );
  }
  return types.map((isSliding) => (isSliding ? window : null));
}

function readWindow(fields: ConfigFields, fallback: number | null): number | null {
  if (fields.isAbsent("sliding_window")) return fallback;
  if (!fields.has("sliding_window")) return null;
  return fields.integer("sliding_window", { min: 1, max: MAX_WINDOW });
}

/** @returns whether each layer has a window; `undefined` when the field is absent */
function readLayerTypes(fields: ConfigFields, numLayers: number): boolean[] | undefined {
  const types = fields.array("layer_types");
  if (types === undefined) return undefined;
  if (types.length !== numLayers) {
    fields.invalid("layer_types", `an array of num_hidden_layers (${numLayers}) names`);
  }
  return types.map((type) => {
    if (type === "sliding_attention") return true;
    if (type === "full_attention") return false;
    return fields.unsupported("layer_types", "full_attention and sliding_attention");
  });
}
