/** Whether a backend serves what an adapter needs. */
import { AdapterError } from "../core/errors.ts";
import type { AdapterForm, AdapterWeights } from "./adapter-weights.ts";

/**
 * @param backend whose `adapterForms` are those it serves beyond plain LoRA
 * @returns the adapter itself
 * @throws {AdapterError} `adapter_unsupported` naming the form and the backend
 */
export function checkForms(
  adapter: AdapterWeights,
  { name, adapterForms = [] }: { readonly name: string; readonly adapterForms?: readonly AdapterForm[] },
): AdapterWeights {
  const missing = adapter.forms?.find((form) => !adapterForms.includes(form));
  if (missing === undefined) return adapter;
  throw new AdapterError("adapter_unsupported", `the adapter uses ${missing}, which the ${name} backend does not serve; use a backend that does, or retrain without it`, {
    field: missing,
  });
}
