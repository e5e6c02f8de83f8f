/** The sampling fields that name tokens or text: stop strings, stop tokens, biases. */
import { RequestError } from "../core/errors.ts";
import type { SamplingContext, SamplingParams } from "./sampling-params.ts";
import { refuse } from "./sampling-fields.ts";

export const MAX_STOP_STRINGS = 4;
export const MAX_STOP_CHARS = 128;
export const MAX_STOP_TOKENS = 64;
export const MAX_BIASED_TOKENS = 300;

export function resolveStops(
  { stop }: SamplingParams,
  context: SamplingContext,
): readonly string[] {
  const name = context.fieldName?.("stop") ?? "stop";
  if (stop == null) return [];
  const stops: readonly unknown[] = typeof stop === "string" ? [stop] : stop;
  if (!Array.isArray(stops)) throw refuse(name, "a string or a list of strings", stop);
  if (stops.length > MAX_STOP_STRINGS) {
    throw refuse(name, `at most ${MAX_STOP_STRINGS} strings`, stops.length);
  }
  return stops.map((each: unknown) => {
    if (typeof each !== "string" || !each.isWellFormed()) {
      throw refuse(name, "a string or a list of strings of whole characters", each);
    }
    if (each.length < 1 || each.length > MAX_STOP_CHARS) {
      throw refuse(name, `strings of 1 to ${MAX_STOP_CHARS} characters`, each);
    }
    if (!context.hasTokenizer) {
      throw new RequestError("invalid_request", `${name} needs a model with a tokenizer; use stop token ids instead`, {
        field: name,
      });
    }
    return each;
  });
}

export function resolveStopTokens(
  { stopTokenIds }: SamplingParams,
  context: SamplingContext,
): readonly number[] {
  const name = context.fieldName?.("stopTokenIds") ?? "stopTokenIds";
  if (stopTokenIds == null) return [];
  if (!Array.isArray(stopTokenIds)) throw refuse(name, "a list of token ids", stopTokenIds);
  if (stopTokenIds.length > MAX_STOP_TOKENS) {
    throw refuse(name, `at most ${MAX_STOP_TOKENS} token ids`, stopTokenIds.length);
  }
  for (const id of stopTokenIds as readonly unknown[]) checkToken(id, name, context.vocabSize);
  return stopTokenIds;
}

export function resolveBias(
  { logitBias }: SamplingParams,
  context: SamplingContext,
): ReadonlyMap<number, number> {
  const name = context.fieldName?.("logitBias") ?? "logitBias";
  const biases = new Map<number, number>();
  if (logitBias == null) return biases;
  if (typeof logitBias !== "object" || Array.isArray(logitBias)) {
    throw refuse(name, "an object from token id to number", logitBias);
  }
  const entries = Object.entries(logitBias);
  if (entries.length > MAX_BIASED_TOKENS) {
    throw refuse(name, `for at most ${MAX_BIASED_TOKENS} tokens`, entries.length);
  }
  for (const [key, bias] of entries) {
    const id = /^\d{1,10}$/.test(key) ? Number(key) : key;
    checkToken(id, name, context.vocabSize);
    if (typeof bias !== "number" || !Number.isFinite(Math.fround(bias))) {
      throw refuse(name, `a finite number for token ${key}`, bias);
    }
    biases.set(Number(id), bias);
  }
  return biases;
}

function checkToken(id: unknown, field: string, vocabSize: number): void {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize) return;
  throw refuse(field, `token ids from 0 to ${vocabSize - 1}`, id);
}
