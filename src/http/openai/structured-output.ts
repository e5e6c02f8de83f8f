/** What a body says the output must be: OpenAI's `response_format`, TensorRT-LLM's further types of it, vLLM's `guided_*`. */
import type { GrammarSpec } from "../../core/grammar.ts";
import { isJsonObject, type JsonValue } from "../../formats/json.ts";
import { badField } from "../error-response.ts";
import { Fields, isArray, shown } from "./fields.ts";

export interface WantedGrammar {
  readonly spec: GrammarSpec;
  /** Where the body says so, for messages. */
  readonly field: string;
}

/** vLLM's older fields, and the same under `structured_outputs`, in its newer spelling. */
const GUIDED = { json: "guided_json", json_object: "guided_json_object", regex: "guided_regex", choice: "guided_choice", grammar: "guided_grammar" } as const;

export const STRUCTURED_FIELDS = ["response_format", "structured_outputs", ...Object.values(GUIDED)] as const;

/** @returns `null` for any text @throws {RequestError} `invalid_request`, for more than one wish too */
export function readWantedGrammar(fields: Fields): WantedGrammar | null {
  const nested = fields.object("structured_outputs");
  nested?.refuseUnknown(Object.keys(GUIDED));
  const wanted = [
    readResponseFormat(fields.object("response_format")),
    ...Object.entries(GUIDED).flatMap(([kind, field]) => [
      readGuided(fields, field, kind as keyof typeof GUIDED),
      ...(nested === undefined ? [] : [readGuided(nested, kind, kind as keyof typeof GUIDED)]),
    ]),
  ].filter((each) => each !== null);
  if (wanted.length > 1) throw badField(wanted[1]!.field, `cannot be sent together with ${wanted[0]!.field}; send one of them`);
  return wanted[0] ?? null;
}

function readResponseFormat(format: Fields | undefined): WantedGrammar | null {
  if (format === undefined) return null;
  const type = format.required("type", format.string("type"));
  const of = (spec: GrammarSpec, name: string): WantedGrammar => ({ spec, field: format.nameOf(name) });
  switch (type) {
    case "text":
      format.refuseUnknown(["type"]);
      return null;
    case "json_object":
      format.refuseUnknown(["type", "schema"]);
      return format.raw("schema") === undefined ? of({ type: "json_object" }, "type") : of(schemaSpec(format, "schema"), "schema");
    case "json":
      format.refuseUnknown(["type", "schema"]);
      return of(schemaSpec(format, "schema"), "schema");
    case "json_schema": {
      format.refuseUnknown(["type", "json_schema"]);
      const inner = format.required("json_schema", format.object("json_schema"));
      inner.refuseUnknown(["name", "description", "schema", "strict"]);
      inner.string("name");
      inner.string("description");
      // Outputs always keep to the schema, which is what strict asks for.
      inner.boolean("strict");
      return { spec: schemaSpec(inner, "schema"), field: inner.nameOf("schema") };
    }
    case "regex":
      format.refuseUnknown(["type", "regex"]);
      return of({ type: "regex", pattern: format.required("regex", format.string("regex")) }, "regex");
    case "ebnf":
      format.refuseUnknown(["type", "ebnf"]);
      return of({ type: "ebnf", grammar: format.required("ebnf", format.string("ebnf")) }, "ebnf");
    case "structural_tag":
      return readStructuralTag(format);
    default:
      throw badField(format.nameOf("type"), `${shown(type)} is not supported; send text, json_object, json_schema, json, regex, ebnf or structural_tag`);
  }
}

/** In XGrammar's form, or as vLLM and SGLang had it before: parts by how they begin, with a schema for what is in them. */
function readStructuralTag(format: Fields): WantedGrammar {
  if (format.raw("structures") === undefined) {
    format.refuseUnknown(["type", "format"]);
    format.required("format", format.object("format"));
    return { spec: { type: "structural_tag", format: JSON.stringify(format.raw("format")) }, field: format.nameOf("format") };
  }
  format.refuseUnknown(["type", "structures", "triggers"]);
  const structures = format.required("structures", format.array("structures"));
  const triggers = format.required("triggers", format.array("triggers"));
  const tags = structures.map((each, i) => {
    const name = format.nameOf(`structures[${i}]`);
    if (!isJsonObject(each)) throw badField(name, "must be an object with begin, schema and end");
    const fields = new Fields(each, `${name}.`);
    fields.refuseUnknown(["begin", "schema", "end"]);
    const schema = fields.raw("schema");
    const content = { type: "json_schema", json_schema: typeof schema === "string" ? parsed(schema, fields.nameOf("schema")) : (schema ?? {}) };
    return { type: "tag", begin: fields.required("begin", fields.string("begin")), content, end: fields.required("end", fields.string("end")) };
  });
  return { spec: { type: "structural_tag", format: JSON.stringify({ type: "triggered_tags", triggers, tags }) }, field: format.nameOf("structures") };
}

function readGuided(fields: Fields, name: string, kind: keyof typeof GUIDED): WantedGrammar | null {
  if (fields.raw(name) === undefined) return null;
  const field = fields.nameOf(name);
  switch (kind) {
    case "json":
      return { spec: schemaSpec(fields, name), field };
    case "json_object":
      return fields.boolean(name) === true ? { spec: { type: "json_object" }, field } : null;
    case "regex":
      return { spec: { type: "regex", pattern: fields.string(name)! }, field };
    case "grammar":
      return { spec: { type: "ebnf", grammar: fields.string(name)! }, field };
    case "choice": {
      const choices = fields.array(name)!;
      if (!choices.every((each) => typeof each === "string")) throw badField(field, "must be a list of strings");
      return { spec: { type: "choice", choices: choices as readonly string[] }, field };
    }
  }
}

/** As an object, or as its JSON text. */
function schemaSpec(fields: Fields, name: string): GrammarSpec {
  const schema = fields.required(name, fields.raw(name));
  return { type: "json_schema", schema: JSON.stringify(typeof schema === "string" ? parsed(schema, fields.nameOf(name)) : schema) };
}

function parsed(text: string, field: string): JsonValue {
  try {
    const value = JSON.parse(text) as JsonValue;
    if (typeof value === "object" && value !== null && !isArray(value)) return value;
  } catch {
    // The sentence below says it.
  }
  throw badField(field, "must be a JSON Schema: an object, or its JSON text");
}
