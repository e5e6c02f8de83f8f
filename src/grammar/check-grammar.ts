/**
 * Refuses what the grammar library would take and not enforce, so that nobody trusts an answer to keep to more than
 * it does.
 */
import { RequestError } from "../core/errors.ts";
import type { GrammarSpec } from "../core/grammar.ts";

export const MAX_GRAMMAR_CHARS = 65_536;
export const MAX_GRAMMAR_CHOICES = 1024;
const MAX_SCHEMA_DEPTH = 32;

/** Keywords of JSON Schema that outputs would not keep to. */
const UNENFORCED = [
  "multipleOf",
  "uniqueItems",
  "contains",
  "minContains",
  "maxContains",
  "not",
  "if",
  "then",
  "else",
  "dependentRequired",
  "dependentSchemas",
  "dependencies",
  "contentSchema",
  "$dynamicRef",
  "$recursiveRef",
];
const TYPES = ["string", "number", "integer", "boolean", "null", "object", "array"];
/** Keywords whose value is one schema, a list of schemas, schemas by name. */
const ONE = ["items", "additionalItems", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"];
const LISTS = ["anyOf", "oneOf", "allOf", "prefixItems"];
const MAPS = ["properties", "patternProperties", "$defs", "definitions"];

/** @throws {RequestError} `invalid_request` */
export function checkGrammar(spec: GrammarSpec): void {
  switch (spec.type) {
    case "json_object":
      return;
    case "json_schema":
      checkLength("the schema", spec.schema);
      return checkSchema(JSON.parse(spec.schema), "the schema", 0);
    case "regex":
      return checkLength("the pattern", spec.pattern);
    case "ebnf":
      return checkLength("the grammar", spec.grammar);
    case "structural_tag":
      checkLength("the format", spec.format);
      return checkFormat(JSON.parse(spec.format), "the format", 0);
    case "choice":
      if (spec.choices.length === 0 || spec.choices.length > MAX_GRAMMAR_CHOICES) {
        throw refusal(`there must be 1 to ${MAX_GRAMMAR_CHOICES} choices, got ${spec.choices.length}`);
      }
      for (const choice of spec.choices) {
        if (choice === "" || !choice.isWellFormed()) throw refusal("each choice must be a text of at least one character");
      }
      return checkLength("the list of choices", spec.choices.join(""));
  }
}

/** The fields of each kind of structural format that must be there, and those that may. */
const FORMATS: Readonly<Record<string, { readonly needs: readonly string[]; readonly may?: readonly string[] }>> = {
  any_text: { needs: [] },
  const_string: { needs: ["value"] },
  json_schema: { needs: ["json_schema"] },
  qwen_xml_parameter: { needs: ["json_schema"] },
  grammar: { needs: ["grammar"] },
  regex: { needs: ["pattern"] },
  sequence: { needs: ["elements"] },
  or: { needs: ["elements"] },
  tag: { needs: ["begin", "content", "end"] },
  triggered_tags: { needs: ["triggers", "tags"], may: ["at_least_one", "stop_after_first"] },
  tags_with_separator: { needs: ["tags", "separator"], may: ["at_least_one", "stop_after_first"] },
};

/** @source XGrammar, `docs/tutorials/structural_tag.md` */
function checkFormat(format: unknown, at: string, depth: number): void {
  if (!isRecord(format)) throw refusal(`${at} must be an object with a type`);
  if (depth > MAX_SCHEMA_DEPTH) throw refusal(`${at} is nested deeper than ${MAX_SCHEMA_DEPTH} formats`);
  const type = String(format["type"]).slice(0, 64);
  const known = Object.hasOwn(FORMATS, type) ? FORMATS[type] : undefined;
  if (known === undefined) throw refusal(`${at}.type must be one of ${Object.keys(FORMATS).join(", ")}, got ${JSON.stringify(type)}`);
  const missing = known.needs.find((field) => format[field] === undefined);
  if (missing !== undefined) throw refusal(`${at} of type ${type} must have ${missing}`);
  const unknown = Object.keys(format).find((field) => field !== "type" && ![...known.needs, ...(known.may ?? [])].includes(field));
  if (unknown !== undefined) throw refusal(`${at} of type ${type} has ${unknown.slice(0, 64)}, which it cannot be held to`);
  for (const field of known.may ?? []) if (format[field] !== undefined && typeof format[field] !== "boolean") throw refusal(`${at}.${field} must be true or false`);
  for (const field of ["value", "pattern", "grammar", "begin", "end", "separator"]) if (known.needs.includes(field) && typeof format[field] !== "string") throw refusal(`${at}.${field} must be a string`);
  if (known.needs.includes("json_schema")) checkSchema(format["json_schema"], `${at}.json_schema`, 0);
  if (known.needs.includes("content")) checkFormat(format["content"], `${at}.content`, depth + 1);
  for (const field of ["elements", "tags", "triggers"].filter((each) => known.needs.includes(each))) {
    const list = format[field];
    if (!Array.isArray(list) || list.length === 0) throw refusal(`${at}.${field} must be a list with at least one entry`);
    list.forEach((each, i) => {
      const place = `${at}.${field}[${i}]`;
      if (field !== "triggers") return checkFormat(each, place, depth + 1);
      if (typeof each !== "string" || each === "") throw refusal(`${place} must be a text of at least one character`);
    });
  }
}

function checkLength(what: string, text: string): void {
  if (text === "") throw refusal(`${what} is empty`);
  if (text.length > MAX_GRAMMAR_CHARS) throw refusal(`${what} has ${text.length} characters, more than the ${MAX_GRAMMAR_CHARS} allowed`);
}

function checkSchema(schema: unknown, at: string, depth: number): void {
  if (typeof schema === "boolean") return;
  if (!isRecord(schema)) throw refusal(`${at} must be a JSON Schema, that is an object, true or false`);
  if (depth > MAX_SCHEMA_DEPTH) throw refusal(`${at} is nested deeper than ${MAX_SCHEMA_DEPTH} schemas`);
  const unenforced = UNENFORCED.find((keyword) => keyword in schema && schema[keyword] !== false);
  if (unenforced !== undefined) throw refusal(`${at} has ${unenforced}, which outputs cannot be held to; leave it out and check it yourself`);
  checkTypes(schema["type"], at);
  checkReference(schema["$ref"], at);
  if ("pattern" in schema && ["minLength", "maxLength", "format"].some((keyword) => keyword in schema)) {
    throw refusal(`${at} has pattern beside minLength, maxLength or format; write the length into the pattern`);
  }
  const { allOf } = schema;
  if (Array.isArray(allOf) && allOf.length !== 1) throw refusal(`${at} has allOf with ${allOf.length} schemas; merge them into one`);
  for (const keyword of ONE) if (keyword in schema && !Array.isArray(schema[keyword])) checkSchema(schema[keyword], `${at}.${keyword}`, depth + 1);
  for (const keyword of [...LISTS, ...ONE]) {
    const list = schema[keyword];
    if (Array.isArray(list)) list.forEach((each, i) => checkSchema(each, `${at}.${keyword}[${i}]`, depth + 1));
    else if (list !== undefined && LISTS.includes(keyword)) throw refusal(`${at}.${keyword} must be a list of schemas`);
  }
  for (const keyword of MAPS) {
    const map = schema[keyword];
    if (map === undefined) continue;
    if (!isRecord(map)) throw refusal(`${at}.${keyword} must be an object of schemas`);
    for (const [name, each] of Object.entries(map)) checkSchema(each, `${at}.${keyword}.${name.slice(0, 64)}`, depth + 1);
  }
}

function checkTypes(type: unknown, at: string): void {
  if (type === undefined) return;
  const types: unknown[] = Array.isArray(type) ? type : [type];
  const wrong = types.find((each) => !TYPES.includes(each as string));
  if (wrong !== undefined || types.length === 0) throw refusal(`${at}.type must be one of ${TYPES.join(", ")}, or a list of them`);
}

function checkReference(ref: unknown, at: string): void {
  if (ref === undefined || (typeof ref === "string" && (ref === "#" || ref.startsWith("#/")))) return;
  throw refusal(`${at}.$ref must point into the same schema, like "#/$defs/name"`);
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

const refusal = (problem: string): RequestError => new RequestError("invalid_request", problem);
