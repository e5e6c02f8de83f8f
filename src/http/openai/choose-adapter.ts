/** Which adapter a request is for: by `model`, by `base:adapter`, or by `lora_request`. */
import { AdapterError, type LorikeetError, RequestError, toLorikeetError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";
import { didYouMean } from "../../core/nearest.ts";
import type { AdapterReference, Runtime } from "../../runtime/runtime.ts";
import { badField } from "../error-response.ts";
import { shown } from "./fields.ts";

export interface Chosen {
  readonly adapter: AdapterId | null;
  /** Under which metrics count it; `null` for the base model. */
  readonly adapterName: string | null;
  /** An error of the adapter as one of this request's. */
  readonly toRequestError: (thrown: unknown) => LorikeetError;
}

/**
 * @param baseNames names that mean the base model
 * @throws {RequestError} `model_not_found`; `invalid_request` when `model` and `lora_request` name two adapters
 * @throws {AdapterError} `adapter_not_found`, or why an adapter of that name is not served
 */
export async function chooseAdapter(
  runtime: Pick<Runtime, "adapters" | "resolveAdapter">,
  baseNames: readonly string[],
  model: string,
  loraRequest: AdapterReference | null,
): Promise<Chosen> {
  const named = adapterName(baseNames, model);
  const byModel = named === null ? null : await adapterNamedBy(runtime, baseNames, model, named);
  if (loraRequest === null) return { adapter: byModel, adapterName: named, toRequestError: atField("model") };
  if (named !== null && named !== loraRequest.name) {
    throw badField(
      "lora_request",
      `names the adapter ${shown(loraRequest.name)}, but model names ${shown(named)}; name one of them`,
    );
  }
  const toRequestError = atField("lora_request");
  const adapter = await runtime.resolveAdapter(loraRequest).catch((thrown: unknown) => {
    throw toRequestError(thrown);
  });
  return { adapter, adapterName: loraRequest.name, toRequestError };
}

/** @returns `null` for the base model */
function adapterName(baseNames: readonly string[], model: string): string | null {
  if (baseNames.includes(model)) return null;
  const base = baseNames.find((name) => model.startsWith(`${name}:`));
  return base === undefined ? model : model.slice(base.length + 1);
}

async function adapterNamedBy(
  runtime: Pick<Runtime, "adapters" | "resolveAdapter">,
  baseNames: readonly string[],
  model: string,
  name: string,
): Promise<AdapterId> {
  try {
    return await runtime.resolveAdapter({ name });
  } catch (thrown) {
    const error = atField("model")(thrown);
    if (error.errorCode !== "adapter_not_found") throw error;
    const names = runtime.adapters().map((adapter) => adapter.name);
    throw new RequestError(
      "model_not_found",
      `the model ${shown(model)} is not served here${didYouMean(model, [...baseNames, ...names])}; ` +
        "GET /v1/models lists those that are",
      { field: "model" },
    );
  }
}

/** Clients know the fields of their request, not those of an adapter's files or of the runtime's calls. */
const atField =
  (field: "model" | "lora_request") =>
  (thrown: unknown): LorikeetError => {
    const error = toLorikeetError(thrown);
    const isOfReference = /^lora_(name|int_id|path)$/.test(error.field ?? "");
    const own = { field: field === "lora_request" && isOfReference ? `lora_request.${error.field}` : field, cause: error };
    if (error instanceof AdapterError) return new AdapterError(error.errorCode, error.message, own);
    if (error instanceof RequestError && isOfReference) return new RequestError(error.errorCode, error.message, own);
    return error;
  };
