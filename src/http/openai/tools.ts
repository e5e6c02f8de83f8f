/** The tools that a chat may call, and whether it must. */
import type { GrammarSpec } from "../../core/grammar.ts";
import { isJsonObject, type JsonObject, type JsonValue } from "../../formats/json.ts";
import { badField } from "../error-response.ts";
import { Fields, shown } from "./fields.ts";

export interface Tool {
  readonly name: string;
  /** JSON Schema of its arguments. */
  readonly parameters: JsonObject;
  /** As the client wrote it, for the chat template. */
  readonly written: JsonObject;
}

export interface Tools {
  /** None when no tool may be called. */
  readonly offered: readonly Tool[];
  /** `auto`: the model decides; `required`: one call at least; `named`: one call of the only tool offered. */
  readonly choice: "auto" | "required" | "named";
  /** Whether an answer may have several calls. */
  readonly isParallel: boolean;
}

/** Most tools in one request. */
export const MAX_TOOLS = 128;
const MAX_NAME_CHARS = 64;
const NO_PARAMETERS: JsonObject = { type: "object", properties: {} };

/** @throws {RequestError} `invalid_request` */
export function readTools(fields: Fields): Tools {
  const tools = (fields.array("tools") ?? []).map((tool, i) => readTool(tool, `tools[${i}]`));
  if (tools.length > MAX_TOOLS) throw badField("tools", `must be at most ${MAX_TOOLS}, got ${tools.length}`);
  const twice = tools.find(({ name }, i) => tools.findIndex((other) => other.name === name) < i);
  if (twice !== undefined) throw badField("tools", `has two functions named ${shown(twice.name)}`);
  const isParallel = fields.boolean("parallel_tool_calls") ?? true;
  return { ...choose(fields, tools), isParallel };
}

function readTool(tool: JsonValue, name: string): Tool {
  if (!isJsonObject(tool)) throw badField(name, 'must be an object like {"type": "function", "function": {"name": ...}}');
  const fields = new Fields(tool, `${name}.`);
  fields.refuseUnknown(["type", "function"]);
  const type = fields.string("type") ?? "function";
  if (type !== "function") throw badField(fields.nameOf("type"), `${shown(type)} is not supported; only "function" is`);
  const inner = fields.required("function", fields.object("function"));
  inner.refuseUnknown(["name", "description", "parameters", "strict"]);
  const called = inner.required("name", inner.string("name"));
  if (!/^[\w.-]+$/.test(called) || called.length > MAX_NAME_CHARS) {
    throw badField(inner.nameOf("name"), `must be 1 to ${MAX_NAME_CHARS} letters, digits, "_", "." or "-", got ${shown(called)}`);
  }
  inner.string("description");
  inner.boolean("strict");
  inner.object("parameters");
  return { name: called, parameters: (inner.raw("parameters") as JsonObject | undefined) ?? NO_PARAMETERS, written: tool };
}

function choose(fields: Fields, tools: readonly Tool[]): Pick<Tools, "offered" | "choice"> {
  const choice = fields.raw("tool_choice") ?? "auto";
  if (choice === "none") return { offered: [], choice: "auto" };
  if (choice !== "auto" && tools.length === 0) throw badField("tool_choice", "may only be sent together with tools");
  if (choice === "auto" || choice === "required") return { offered: tools, choice };
  if (typeof choice === "string") throw badField("tool_choice", `must be none, auto, required or a function, got ${shown(choice)}`);
  const named = fields.object("tool_choice")!;
  named.refuseUnknown(["type", "function"]);
  if ((named.string("type") ?? "function") !== "function") throw badField("tool_choice.type", 'must be "function"');
  const inner = named.required("function", named.object("function"));
  const name = inner.required("name", inner.string("name"));
  const tool = tools.find((each) => each.name === name);
  if (tool === undefined) throw badField("tool_choice.function.name", `${shown(name)} is not among the tools`);
  return { offered: [tool], choice: "named" };
}

/** What an output is when the model must call: the arguments of the named tool, else a list of calls. */
export function callGrammar({ offered, choice, isParallel }: Tools): GrammarSpec | null {
  if (choice === "auto") return null;
  if (choice === "named") return { type: "json_schema", schema: JSON.stringify(offered[0]!.parameters) };
  const calls = offered.map(({ name }, i) => ({
    type: "object",
    properties: { name: { const: name }, arguments: { $ref: `#/$defs/${i}` } },
    required: ["name", "arguments"],
    additionalProperties: false,
  }));
  const $defs = Object.fromEntries(offered.map(({ parameters }, i) => [i, rebased(parameters, `#/$defs/${i}`)]));
  const schema = { type: "array", items: { anyOf: calls }, minItems: 1, ...(isParallel ? {} : { maxItems: 1 }), $defs };
  return { type: "json_schema", schema: JSON.stringify(schema) };
}

/** References of a schema that has become a part of another. */
function rebased(value: JsonValue, at: string): JsonValue {
  if (Array.isArray(value)) return value.map((each: JsonValue) => rebased(each, at));
  if (!isJsonObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [
      key,
      key === "$ref" && typeof each === "string" && each.startsWith("#") ? at + each.slice(1) : rebased(each ?? null, at),
    ]),
  );
}
