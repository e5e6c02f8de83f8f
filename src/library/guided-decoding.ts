/** What an output must be, in a program's words: TensorRT-LLM's `GuidedDecodingParams` in camelCase, and a list of choices. */
import { RequestError } from "../core/errors.ts";
import type { Grammar, GrammarSpec } from "../core/grammar.ts";
import { didYouMean } from "../core/nearest.ts";
import type { SamplingParams } from "../core/sampling-params.ts";
import type { Runtime } from "../runtime/runtime.ts";

/** Exactly one field. */
export interface GuidedDecoding {
  /** A JSON Schema, or its text. */
  readonly json?: object | string;
  /** Any JSON object. */
  readonly jsonObject?: true;
  /** A regular expression for the whole output. */
  readonly regex?: string;
  /** EBNF rules, the first of them `root`. */
  readonly grammar?: string;
  /** XGrammar's structural tag format, or its JSON text. */
  readonly structuralTag?: object | string;
  /** Texts, of which the output is one; 1 to 1024. */
  readonly choice?: readonly string[];
}

/** How tokens are picked, and what they must come to. */
export interface GuidedSamplingParams extends SamplingParams {
  /** What the output must be; not together with `ignoreEos` or `minTokens`. */
  readonly guidedDecoding?: GuidedDecoding | null;
}

const READERS: Readonly<Record<keyof GuidedDecoding, (value: unknown) => GrammarSpec | null>> = {
  json: (value) => ({ type: "json_schema", schema: jsonText(value) }),
  jsonObject: (value) => (value === true ? { type: "json_object" } : null),
  regex: (value) => (typeof value === "string" ? { type: "regex", pattern: value } : null),
  grammar: (value) => (typeof value === "string" ? { type: "ebnf", grammar: value } : null),
  structuralTag: (value) => ({ type: "structural_tag", format: jsonText(value) }),
  choice: (value) => (Array.isArray(value) && value.every((each) => typeof each === "string") ? { type: "choice", choices: value as string[] } : null),
};

/**
 * @internal
 * @returns `null` for any text
 * @throws {RequestError} `invalid_request` for what is no grammar, for more than one, or beside what it cannot go with
 */
export async function compileGuided(runtime: Pick<Runtime, "compileGrammar">, given: GuidedDecoding | null | undefined, sampling: SamplingParams): Promise<Grammar | null> {
  if (given === undefined || given === null) return null;
  const [spec, field] = readGuided(given);
  if (sampling.ignoreEos === true) throw refusal("ignoreEos", `cannot be true together with ${field}`);
  if ((sampling.minTokens ?? 0) > 0) throw refusal("minTokens", `cannot be above 0 together with ${field}`);
  try {
    return await runtime.compileGrammar(spec);
  } catch (thrown) {
    if (!(thrown instanceof RequestError)) throw thrown;
    throw new RequestError(thrown.errorCode, `${field} is not usable: ${thrown.message}`, { field, cause: thrown });
  }
}

function readGuided(given: GuidedDecoding): readonly [GrammarSpec, string] {
  const names = Object.keys(READERS);
  const unknown = Object.keys(given).find((name) => !names.includes(name));
  if (unknown !== undefined) throw refusal(`guidedDecoding.${unknown}`, `is not known${didYouMean(unknown, names)}`);
  const [entry, ...others] = Object.entries(given).filter(([, value]) => value !== undefined && value !== null);
  if (entry === undefined || others.length > 0) throw refusal("guidedDecoding", `must have exactly one of ${names.join(", ")}`);
  const [name, value] = entry;
  const field = `guidedDecoding.${name}`;
  let spec: GrammarSpec | null = null;
  try {
    spec = READERS[name as keyof GuidedDecoding](value);
  } catch {
    // No JSON: the sentence below says it.
  }
  if (spec === null) throw refusal(field, "is not of its form; see GuidedDecoding");
  return [spec, field];
}

/** @throws for a text that is no JSON, and for what is neither text nor object */
function jsonText(value: unknown): string {
  const parsed: unknown = typeof value === "string" ? JSON.parse(value) : value;
  if (typeof parsed !== "object" || parsed === null) throw new TypeError("no object");
  return JSON.stringify(parsed);
}

const refusal = (field: string, problem: string): RequestError => new RequestError("invalid_request", `${field} ${problem}`, { field });
