/** The `post_processor` of a tokenizer.json: the tokens it puts around one text. */
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
} from "../formats/json.ts";
import type { ConfigFields } from "./config-fields.ts";

export interface Surroundings {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

const NOTHING: Surroundings = { before: [], after: [] };
const SUPPORTED =
  "none, ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing, Sequence";

/** @throws {ModelError} for a post-processor that does not keep one text in one piece */
export function readPostProcessor(fields: ConfigFields): Surroundings {
  const config = fields.value("post_processor");
  if (config === undefined) return NOTHING;
  if (!isJsonObject(config))
    return fields.invalid("post_processor", "an object or null");
  return compile(config) ?? fields.unsupported("post_processor", SUPPORTED);
}

function compile(config: JsonObject): Surroundings | null {
  switch (config["type"]) {
    case "ByteLevel":
      return NOTHING;
    case "TemplateProcessing":
      return compileTemplate(config);
    case "BertProcessing":
    case "RobertaProcessing": {
      const [before, after] = [pairId(config["cls"]), pairId(config["sep"])];
      return before === null || after === null
        ? null
        : { before: [before], after: [after] };
    }
    case "Sequence":
      return compileSequence(asArray(config["processors"]));
    default:
      return null;
  }
}

function compileSequence(
  processors: readonly JsonValue[],
): Surroundings | null {
  let all = NOTHING;
  for (const processor of processors) {
    const one = isJsonObject(processor) ? compile(processor) : null;
    if (one === null) return null;
    all = {
      before: [...one.before, ...all.before],
      after: [...all.after, ...one.after],
    };
  }
  return all;
}

function compileTemplate(config: JsonObject): Surroundings | null {
  const { single, special_tokens: tokens } = config;
  const before: number[] = [];
  const after: number[] = [];
  let numTexts = 0;
  for (const piece of asArray(single)) {
    if (!isJsonObject(piece)) return null;
    const { Sequence: text, SpecialToken: token } = piece;
    if (isJsonObject(text) && text["id"] === "A") {
      numTexts++;
      continue;
    }
    const name = isJsonObject(token) ? token["id"] : undefined;
    const known =
      typeof name === "string" && isJsonObject(tokens)
        ? tokens[name]
        : undefined;
    const ids = isJsonObject(known) ? asArray(known["ids"]) : [];
    if (ids.length === 0 || !ids.every((id) => typeof id === "number"))
      return null;
    (numTexts === 0 ? before : after).push(...ids);
  }
  return numTexts === 1 ? { before, after } : null;
}

/** The id of `["<s>", 0]`. */
function pairId(value: JsonValue | undefined): number | null {
  const id = asArray(value)[1];
  return typeof id === "number" ? id : null;
}

function asArray(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : [];
}
