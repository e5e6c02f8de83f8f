/** Which adapter a request is for: by `model`, by `base:adapter`, or by `lora_request`. */
import { didYouMean } from "../../config/nearest.ts";
import { RequestError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";
import type { AdapterReference, Runtime } from "../../runtime/runtime.ts";
import { badField } from "../error-response.ts";
import { shown } from "./fields.ts";

export interface Chosen {
  readonly adapter: AdapterId | null;
  /** Under which metrics count it; `null` for the base model. */
  readonly adapterName: string | null;
}

/**
 * @param baseNames names that mean the base model
 * @throws {RequestError} `model_not_found`; `invalid_request` when `model` and `lora_request` name two adapters
 * @throws {AdapterError} `adapter_not_found`
 */
export async function chooseAdapter(
  runtime: Pick<Runtime, "adapters" | "resolveAdapter">,
  baseNames: readonly string[],
  model: string,
  loraRequest: AdapterReference | null,
): Promise<Chosen> {
  const named = adapterNamedBy(runtime, baseNames, model);
  if (named !== null && loraRequest !== null && named !== loraRequest.name) {
    throw badField(
      "lora_request",
      `names the adapter ${shown(loraRequest.name)}, but model names ${shown(named)}; name one of them`,
    );
  }
  const reference = loraRequest ?? (named === null ? null : { name: named });
  if (reference === null) return { adapter: null, adapterName: null };
  return { adapter: await runtime.resolveAdapter(reference), adapterName: reference.name };
}

function adapterNamedBy(
  runtime: Pick<Runtime, "adapters">,
  baseNames: readonly string[],
  model: string,
): string | null {
  if (baseNames.includes(model)) return null;
  const names = runtime.adapters().map(({ name }) => name);
  if (names.includes(model)) return model;
  for (const base of baseNames) {
    const adapter = model.slice(base.length + 1);
    if (model.startsWith(`${base}:`) && names.includes(adapter)) return adapter;
  }
  throw new RequestError(
    "model_not_found",
    `the model ${shown(model)} is not served here${didYouMean(model, [...baseNames, ...names])}; ` +
      "GET /v1/models lists those that are",
    { field: "model" },
  );
}
