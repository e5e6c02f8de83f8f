/** What every request must keep, whoever sent it: the last check before the engine. */
import { AdapterError, RequestError } from "../core/errors.ts";
import type { GenerationRequest } from "../core/request.ts";
import { checkContext, checkQueueRoom } from "../schedule/admission.ts";
import { checkQuota } from "../schedule/quotas.ts";
import type { RuntimeParts } from "./runtime-parts.ts";

type Parts = Pick<RuntimeParts, "table" | "registry" | "pool" | "quotas">;

/**
 * Whether a request may be queued now.
 *
 * @throws {RequestError | AdapterError} for what is wrong with it
 * @throws {CapacityError} `queue_full`, `rate_limit_exceeded`
 */
export function checkRequest(
  request: GenerationRequest,
  vocabSize: number,
  nowMs: number,
  { table, registry, pool, quotas }: Parts,
): void {
  checkFields(request, vocabSize, pool.numSlots, registry);
  checkContext(table.limits, request.promptTokens.length, request.sampling.maxTokens);
  checkQuota(quotas, request.tenant, nowMs);
  checkQueueRoom(table, request.promptTokens.length);
}

function checkFields(
  request: GenerationRequest,
  vocabSize: number,
  numSlots: number,
  registry: Parts["registry"],
): void {
  const { promptTokens, adapter, sampling, timeoutMs } = request;
  if (promptTokens.length === 0) {
    throw new RequestError("invalid_request", "prompt must have at least one token", {
      field: "prompt",
    });
  }
  for (const id of promptTokens) {
    if (Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw new RequestError(
      "invalid_request",
      `prompt has ${String(id)}, but token ids are whole numbers from 0 to ${vocabSize - 1}`,
      { field: "prompt" },
    );
  }
  if (!Number.isSafeInteger(sampling.maxTokens) || sampling.maxTokens < 1) {
    throw new RequestError(
      "invalid_request",
      `maxTokens must be a whole number of at least 1, got ${sampling.maxTokens}`,
      { field: "maxTokens" },
    );
  }
  if (timeoutMs !== null && !(timeoutMs > 0)) {
    throw new RequestError("invalid_request", `timeoutMs must be above 0, got ${timeoutMs}`, {
      field: "timeoutMs",
    });
  }
  if (adapter === null) return;
  const { shutOut } = registry.get(adapter);
  if (shutOut !== null) throw shutOut;
  if (numSlots === 0) {
    throw new AdapterError(
      "adapter_unsupported",
      "the server runs without adapters; start it with at least one adapter slot",
      { field: "model" },
    );
  }
}
