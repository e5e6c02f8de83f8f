/** From what a user said about sampling to the `Sampling` record. */
import type { Sampling } from "../core/sampling.ts";
import type { SamplingParams } from "../core/sampling-params.ts";
import { MAX_LOGPROBS } from "../core/step-layout.ts";
import { promptTooLong, tooManyTokens } from "../schedule/admission.ts";
import {
  booleanField,
  integerField,
  numberField,
  refuse,
  refuseUnknownFields,
} from "./sampling-fields.ts";
import { resolveBias, resolveStops, resolveStopTokens } from "./sampling-tokens.ts";

export type { SamplingParams } from "../core/sampling-params.ts";

/** What the library and the HTTP routes each take for a field that was left out. */
export interface SamplingDefaults {
  /** `null` for as many as the context holds. */
  readonly maxTokens: number | null;
  /** `null` lets the greedy rule decide. */
  readonly temperature: number | null;
  /** Whether a `maxTokens` beyond the context is cut to what fits, as TensorRT-LLM does, or refused, as OpenAI and vLLM do. */
  readonly cutsMaxTokens: boolean;
}

export const libraryDefaults: SamplingDefaults = { maxTokens: 32, temperature: null, cutsMaxTokens: true };
export const httpDefaults: SamplingDefaults = { maxTokens: null, temperature: 1, cutsMaxTokens: false };

export interface SamplingContext {
  readonly defaults: SamplingDefaults;
  readonly vocabSize: number;
  /** Most tokens of prompt and output together. */
  readonly maxContext: number;
  /** Tokens of the prompt. */
  readonly promptLength: number;
  /** The model's own end tokens. */
  readonly eosTokenIds: readonly number[];
  /** Without a tokenizer there is no text to find a stop string in. */
  readonly hasTokenizer: boolean;
  /** Spells a field as its caller wrote it; default: as in `SamplingParams`. */
  readonly fieldName?: (field: keyof SamplingParams) => string;
  /** For requests without a seed; default random. */
  readonly randomSeed?: () => bigint;
}

export const MAX_CHOICES = 8;
/** Below this a temperature is greedy: dividing logits by it would leave float32. */
export const MIN_TEMPERATURE = 1e-5;

const FIELDS = [
  "temperature",
  "topK",
  "topP",
  "minP",
  "seed",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "stop",
  "stopTokenIds",
  "maxTokens",
  "minTokens",
  "n",
  "bestOf",
  "logprobs",
  "promptLogprobs",
  "ignoreEos",
  "logitBias",
  "includeStopStrInOutput",
  "skipSpecialTokens",
] as const satisfies readonly (keyof SamplingParams)[];

/**
 * Checks every field and fills in every default.
 *
 * Greedy, that is `temperature` 0, when temperature, topP and topK are all left out, or temperature is 0,
 * topK 1 or topP 0.
 *
 * @throws {RequestError} `invalid_request` with the field; `context_length_exceeded` when the prompt
 *   leaves no room for a token
 */
export function resolveSampling(params: SamplingParams, context: SamplingContext): Sampling {
  const name = context.fieldName ?? ((field: string) => field);
  refuseUnknownFields(params, FIELDS);
  const { numWanted, numGenerated } = resolveChoices(params, context.fieldName);

  const topK = integerField(params.topK, name("topK"), 0, 2 ** 31 - 1);
  const topP = numberField(params.topP, name("topP"), 0, 1);
  const given = numberField(params.temperature, name("temperature"), 0, 1e6);
  const temperature = given ?? context.defaults.temperature;
  const isGreedy =
    (temperature === null && topP === null && topK === null) ||
    (temperature !== null && temperature < MIN_TEMPERATURE) ||
    topK === 1 ||
    topP === 0;

  if (isGreedy && numGenerated > numWanted) throw refuse(name("bestOf"), `left out with greedy sampling, whose outputs are all the same`, numGenerated);

  const minP = numberField(params.minP, name("minP"), 0, 1) ?? 0;
  const { maxTokens, minTokens } = resolveLength(params, context);
  const promptLogprobs = integerField(params.promptLogprobs, name("promptLogprobs"), 0, MAX_LOGPROBS);
  const ignoresEos = booleanField(params.ignoreEos, name("ignoreEos"), false);
  const eosTokenIds = ignoresEos ? [] : context.eosTokenIds;
  const stopTokenIds = new Set([...eosTokenIds, ...resolveStopTokens(params, context)]);
  if (minTokens > 0 && stopTokenIds.size >= context.vocabSize) {
    throw refuse(name("minTokens"), "0 where every token is a stop token", minTokens);
  }
  return {
    temperature: isGreedy ? 0 : (temperature ?? 1),
    topK: isGreedy ? 0 : Math.min(topK ?? 0, context.vocabSize),
    topP: isGreedy ? 1 : (topP ?? 1),
    minP: isGreedy ? 0 : minP,
    seed: resolveSeed(params, context),
    repetitionPenalty:
      numberField(params.repetitionPenalty, name("repetitionPenalty"), 0.01, 100) ?? 1,
    presencePenalty: numberField(params.presencePenalty, name("presencePenalty"), -2, 2) ?? 0,
    frequencyPenalty: numberField(params.frequencyPenalty, name("frequencyPenalty"), -2, 2) ?? 0,
    logitBias: resolveBias(params, context),
    maxTokens,
    minTokens,
    stopTokenIds,
    eosTokenIds: new Set(eosTokenIds),
    stop: resolveStops(params, context),
    includeStop: booleanField(params.includeStopStrInOutput, name("includeStopStrInOutput"), false),
    skipSpecialTokens: booleanField(params.skipSpecialTokens, name("skipSpecialTokens"), true),
    ...(promptLogprobs === null ? {} : { promptLogprobs }),
    // What decides between outputs is how likely they are.
    logprobs: integerField(params.logprobs, name("logprobs"), 0, MAX_LOGPROBS) ?? (numGenerated > numWanted ? 0 : null),
  };
}

export interface Choices {
  /** Outputs given per prompt. */
  readonly numWanted: number;
  /** Outputs generated per prompt, at least as many. */
  readonly numGenerated: number;
}

/** @throws {RequestError} `invalid_request` */
export function resolveChoices(params: SamplingParams, fieldName: SamplingContext["fieldName"] = (field) => field): Choices {
  const numWanted = integerField(params.n, fieldName("n"), 1, MAX_CHOICES) ?? 1;
  const numGenerated = integerField(params.bestOf, fieldName("bestOf"), 1, MAX_CHOICES) ?? numWanted;
  if (numGenerated < numWanted) throw refuse(fieldName("bestOf"), `at least ${fieldName("n")} (${numWanted})`, numGenerated);
  return { numWanted, numGenerated };
}

/** The record for choice `index` of `n`: same in all but the seed. */
export const samplingOfChoice = (sampling: Sampling, index: number): Sampling =>
  index === 0 ? sampling : { ...sampling, seed: BigInt.asUintN(64, sampling.seed + BigInt(index)) };

function resolveLength(
  params: SamplingParams,
  context: SamplingContext,
): { readonly maxTokens: number; readonly minTokens: number } {
  const name = context.fieldName ?? ((field: string) => field);
  const { promptLength, maxContext } = context;
  const room = maxContext - promptLength;
  const asked =
    integerField(params.maxTokens, name("maxTokens"), 1, Number.MAX_SAFE_INTEGER) ??
    context.defaults.maxTokens;
  const minTokens =
    integerField(params.minTokens, name("minTokens"), 0, Number.MAX_SAFE_INTEGER) ?? 0;
  if (asked !== null && minTokens > asked) {
    throw refuse(name("minTokens"), `at most ${name("maxTokens")} (${asked})`, minTokens);
  }
  if (room < 1) throw promptTooLong(promptLength, maxContext);
  if (asked !== null && asked > room && !context.defaults.cutsMaxTokens) throw tooManyTokens(name("maxTokens"), asked, promptLength, maxContext);
  const maxTokens = Math.min(asked ?? room, room);
  return { maxTokens, minTokens: Math.min(minTokens, maxTokens) };
}

function resolveSeed({ seed }: SamplingParams, context: SamplingContext): bigint {
  const name = context.fieldName?.("seed") ?? "seed";
  if (seed == null) return (context.randomSeed ?? randomSeed)();
  if (typeof seed === "bigint") return BigInt.asUintN(64, seed);
  if (!Number.isSafeInteger(seed)) throw refuse(name, "a whole number", seed);
  return BigInt.asUintN(64, BigInt(seed));
}

const randomSeed = (): bigint => crypto.getRandomValues(new BigUint64Array(1))[0]!;
