/** The part of a request body that completions and chat share. */
import type { JsonObject } from "../../formats/json.ts";
import type { AdapterReference } from "../../runtime/runtime.ts";
import type { SamplingParams } from "../../runtime/requests.ts";
import { badField } from "../error-response.ts";
import { Fields, shown } from "./fields.ts";
import { readWantedGrammar, type WantedGrammar } from "./structured-output.ts";
import { type FieldTable, knownFields, refuseUnserved, SAMPLING_FIELDS } from "./known-fields.ts";

export interface CommonBody {
  /** As the client wrote it; answers echo it. */
  readonly model: string;
  readonly loraRequest: AdapterReference | null;
  /** Unchecked values under the sampler's names. */
  readonly params: SamplingParams;
  /** What the output must be; `null` for any text. */
  readonly wanted: WantedGrammar | null;
  /** Lower goes first. */
  readonly priority: number;
  /** Computed prefixes are shared with requests of the same salt only; `null` for those without. */
  readonly cacheSalt: string | null;
  /** Longest life of the request; `null` for the server's own limit. */
  readonly timeoutMs: number | null;
  readonly stream: boolean;
  /** One last chunk with the usage. */
  readonly includeUsage: boolean;
  /** The usage so far with every chunk. */
  readonly continuousUsage: boolean;
  /** Keep only this many tokens at the prompt's end. */
  readonly truncatePromptTokens: number | null;
  readonly returnTokenIds: boolean;
  readonly tokensAsIds: boolean;
  /** The usage says where the time went. */
  readonly withTimeline: boolean;
}

/**
 * @param logprobs alternatives per token, which the two APIs spell differently
 * @throws {RequestError} `invalid_request`
 */
export function readCommonBody(
  body: JsonObject,
  table: FieldTable,
  logprobs: (fields: Fields) => number | undefined,
): CommonBody {
  const fields = new Fields(body);
  fields.refuseUnknown(knownFields(table));
  refuseUnserved(body, table);
  const wanted = readWantedGrammar(fields);
  if (wanted !== null) refuseBeside(fields, wanted);
  const model = fields.required("model", fields.string("model"));
  const stream = fields.boolean("stream") ?? false;
  const streamOptions = readStreamOptions(fields.object("stream_options"), stream);
  const withTimeline = fields.boolean("return_timeline") ?? false;
  if (withTimeline && stream && !streamOptions.includeUsage) {
    throw badField("return_timeline", "is told in the usage; send stream_options: {\"include_usage\": true} with it");
  }
  if (stream) refuseBestOf(fields);
  return {
    model,
    loraRequest: readLoraRequest(fields.object("lora_request")),
    params: { ...samplingParams(fields), logprobs: logprobs(fields) ?? null },
    wanted,
    priority: fields.integer("priority", -MAX_PRIORITY, MAX_PRIORITY) ?? 0,
    cacheSalt: readCacheSalt(fields),
    timeoutMs: readTimeout(fields),
    stream,
    ...streamOptions,
    truncatePromptTokens: fields.integer("truncate_prompt_tokens", 1, Number.MAX_SAFE_INTEGER) ?? null,
    returnTokenIds: fields.boolean("return_token_ids") ?? false,
    tokensAsIds: fields.boolean("return_tokens_as_token_ids") ?? false,
    withTimeline,
  };
}

/** Which outputs are the best is known when all have ended. */
function refuseBestOf(fields: Fields): void {
  const bestOf = fields.raw("best_of");
  if (bestOf !== undefined && bestOf !== (fields.raw("n") ?? 1)) throw badField("best_of", "must equal n with stream: true");
}

const MAX_PRIORITY = 1_000_000;
const MAX_SALT_CHARS = 1024;

function readCacheSalt(fields: Fields): string | null {
  const salt = fields.string("cache_salt") ?? null;
  if (salt === null || (salt !== "" && salt.length <= MAX_SALT_CHARS)) return salt;
  throw badField("cache_salt", `must have 1 to ${MAX_SALT_CHARS} characters, got ${salt.length}`);
}

/** Seconds, whole or not. */
function readTimeout(fields: Fields): number | null {
  const timeout = fields.raw("timeout");
  if (timeout === undefined) return null;
  if (typeof timeout === "number" && timeout > 0 && timeout <= 86_400) return timeout * 1000;
  throw badField("timeout", `must be a number of seconds above 0, at most 86400, got ${shown(timeout)}`);
}

/** A grammar says itself where the output may end, and lets nothing follow. */
function refuseBeside(fields: Fields, { field }: WantedGrammar): void {
  if (fields.boolean("ignore_eos") === true) throw badField("ignore_eos", `cannot be true together with ${field}`);
  if ((fields.integer("min_tokens", 0, Number.MAX_SAFE_INTEGER) ?? 0) > 0) throw badField("min_tokens", `cannot be above 0 together with ${field}`);
}

/** The sampler checks types and ranges itself. */
function samplingParams(fields: Fields): SamplingParams {
  const entries = Object.entries(SAMPLING_FIELDS).map(([field, name]) => [name, fields.raw(field) ?? null]);
  return Object.fromEntries(entries) as SamplingParams;
}

/** A sampler's field in the spelling of request bodies. */
export const bodyField = (name: keyof SamplingParams): string =>
  name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`);

function readStreamOptions(
  options: Fields | undefined,
  stream: boolean,
): { readonly includeUsage: boolean; readonly continuousUsage: boolean } {
  if (options === undefined) return { includeUsage: false, continuousUsage: false };
  if (!stream) throw badField("stream_options", "may only be sent together with stream: true");
  options.refuseUnknown(["include_usage", "continuous_usage_stats", "include_obfuscation"]);
  options.boolean("include_obfuscation");
  return {
    includeUsage: options.boolean("include_usage") ?? false,
    continuousUsage: options.boolean("continuous_usage_stats") ?? false,
  };
}

function readLoraRequest(fields: Fields | undefined): AdapterReference | null {
  if (fields === undefined) return null;
  fields.refuseUnknown(["lora_name", "lora_int_id", "lora_path", "lora_ckpt_source"]);
  const name = fields.required("lora_name", fields.string("lora_name"));
  if (name === "") throw badField("lora_request.lora_name", "must not be empty");
  const intId = fields.integer("lora_int_id", 0, Number.MAX_SAFE_INTEGER);
  const path = fields.string("lora_path");
  const source = fields.string("lora_ckpt_source");
  if (source !== undefined && source !== "hf" && source !== "nemo") {
    throw badField("lora_request.lora_ckpt_source", `${shown(source)} must be "hf" or "nemo"`);
  }
  return {
    name,
    ...(intId === undefined ? {} : { intId }),
    ...(path === undefined || path === "" ? {} : { path }),
    ...(source === undefined ? {} : { source }),
  };
}
