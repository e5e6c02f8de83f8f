/** From prompts and what a user said about sampling to the records that `Runtime.generate` takes. */
import { RequestError } from "../core/errors.ts";
import type { AdapterId } from "../core/ids.ts";
import type { Grammar } from "../core/grammar.ts";
import type { GenerationRequest } from "../core/request.ts";
import {
  resolveChoices,
  resolveSampling,
  type SamplingDefaults,
  type SamplingParams,
  samplingOfChoice,
} from "../engine/sampling-params.ts";
import type { LoadedModel } from "../model/load-model.ts";
import type { Generation, Runtime } from "./runtime.ts";

export { httpDefaults, libraryDefaults, MAX_CHOICES, resolveChoices, type Choices, type SamplingParams } from "../engine/sampling-params.ts";

export interface RequestDraft {
  readonly prompts: readonly (readonly number[])[];
  readonly adapter: AdapterId | null;
  /** What every output must be; left out or `null` for any text. */
  readonly grammar?: Grammar | null;
  /** Of each request, in milliseconds; left out or `null` for the server's own. */
  readonly timeoutMs?: number | null;
  /** Lower goes first; default 0. */
  readonly priority?: number;
  /** Computed prefixes are shared with requests of the same salt only; left out or `null` for those without. */
  readonly cacheSalt?: string | null;
  /** Whose request it is; left out where nobody is told apart. */
  readonly tenant?: string;
  readonly params: SamplingParams;
  readonly defaults: SamplingDefaults;
  /** Spells a field as its caller wrote it. */
  readonly fieldName: (field: keyof SamplingParams) => string;
}

/**
 * One record per prompt and choice: those of the first prompt, then those of the second, and so on.
 *
 * @throws {RequestError} `invalid_request`, `context_length_exceeded`
 */
export function prepareRequests(
  { model, maxContext }: Pick<Runtime, "model" | "maxContext">,
  { prompts, adapter, tenant = "", grammar = null, timeoutMs = null, priority = 0, cacheSalt = null, params, defaults, fieldName }: RequestDraft,
): GenerationRequest[] {
  const { numGenerated } = resolveChoices(params, fieldName);
  return prompts.flatMap((promptTokens) => {
    const sampling = resolveSampling(params, {
      defaults,
      vocabSize: model.program.vocabSize,
      maxContext,
      promptLength: promptTokens.length,
      eosTokenIds: model.generation.eosTokenIds,
      hasTokenizer: model.tokenizer !== null,
      fieldName,
    });
    return Array.from({ length: numGenerated }, (_, choice) => ({
      promptTokens,
      adapter,
      grammar,
      sampling: samplingOfChoice(sampling, choice),
      tenant,
      timeoutMs,
      priority,
      ...(cacheSalt === null ? {} : { cacheSalt }),
    }));
  });
}

/** Queues all of them or none. @throws what `Runtime.generate` throws */
export function generateAll(runtime: Pick<Runtime, "generate">, requests: readonly GenerationRequest[]): Generation[] {
  const started: Generation[] = [];
  try {
    for (const request of requests) started.push(runtime.generate(request));
    return started;
  } catch (thrown) {
    for (const generation of started) generation.cancel();
    throw thrown;
  }
}

/** @throws {RequestError} `invalid_request` for text without a tokenizer, or ids outside the vocabulary */
export function promptTokens(
  { tokenizer, program }: Pick<LoadedModel, "tokenizer" | "program">,
  prompt: string | readonly unknown[],
  addSpecialTokens = true,
): number[] {
  if (typeof prompt !== "string") return checkTokenIds(prompt, program.vocabSize, "prompt");
  if (tokenizer === null) {
    throw new RequestError("invalid_request", "prompt must be token ids: the model has no tokenizer", { field: "prompt" });
  }
  return checkTokenIds(tokenizer.encode(prompt, { addSpecialTokens }), program.vocabSize, "prompt");
}

/** @throws {RequestError} `invalid_request` unless every entry is an id of the vocabulary and there is one at least */
export function checkTokenIds(ids: readonly unknown[], vocabSize: number, field: string): number[] {
  if (ids.length === 0) {
    throw new RequestError("invalid_request", `${field} must have at least one token`, { field });
  }
  for (const id of ids) {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= vocabSize) {
      const shown = typeof id === "number" ? String(id) : `a value of type ${typeof id}`;
      throw new RequestError(
        "invalid_request",
        `${field} has ${shown}, but token ids are whole numbers from 0 to ${vocabSize - 1}`,
        { field },
      );
    }
  }
  return ids as number[];
}
