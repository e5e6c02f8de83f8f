/** The body of `POST /v1/chat/completions`. */
import { type JsonArray, type JsonObject, type JsonValue, isJsonObject } from "../../formats/json.ts";
import { badField } from "../error-response.ts";
import { type CommonBody, readCommonBody } from "./common-body.ts";
import { MAX_LOGPROBS } from "./completion-body.ts";
import { Fields, isArray, shown } from "./fields.ts";
import { CHAT_FIELDS } from "./known-fields.ts";
import type { WantedGrammar } from "./structured-output.ts";
import { callGrammar, readTools, type Tools } from "./tools.ts";

/** A message as chat templates take it. */
export interface ChatTurn {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
  /** Arguments are JSON, not its text: templates write them themselves. */
  readonly tool_calls?: readonly { readonly id: string; readonly type: "function"; readonly function: { readonly name: string; readonly arguments: JsonValue } }[];
  readonly tool_call_id?: string;
  /** Of a tool's answer: the tool. */
  readonly name?: string;
}

export interface ChatBody extends CommonBody {
  readonly messages: readonly ChatTurn[];
  readonly addGenerationPrompt: boolean;
  readonly tools: Tools;
  readonly documents: readonly JsonObject[] | null;
  /** Further variables for the chat template. */
  readonly templateVariables: JsonObject;
}

/** @throws {RequestError} `invalid_request` */
export function readChatBody(body: JsonObject): ChatBody {
  const common = readCommonBody(body, CHAT_FIELDS, readLogprobs);
  const fields = new Fields(body);
  const tools = readTools(fields);
  const maxTokens = readMaxTokens(fields);
  return {
    ...common,
    wanted: withTools(common.wanted, tools),
    tools,
    params: { ...common.params, maxTokens: maxTokens ?? null },
    messages: readMessages(fields.required("messages", fields.array("messages"))),
    addGenerationPrompt: fields.boolean("add_generation_prompt") ?? true,
    documents: readDocuments(fields),
    templateVariables: readTemplateVariables(fields),
  };
}

/** An answer that must be a call cannot be held to another form as well. */
function withTools(wanted: WantedGrammar | null, tools: Tools): WantedGrammar | null {
  const spec = callGrammar(tools);
  if (spec === null) return wanted;
  if (wanted !== null) throw badField(wanted.field, "cannot be sent together with a tool_choice that makes the model call; send one of them");
  return { spec, field: "tools" };
}

function readTemplateVariables(fields: Fields): JsonObject {
  fields.object("chat_template_kwargs");
  return (fields.raw("chat_template_kwargs") as JsonObject | undefined) ?? {};
}

function readDocuments(fields: Fields): readonly JsonObject[] | null {
  const documents = fields.array("documents");
  if (documents === undefined) return null;
  if (!documents.every(isJsonObject)) throw badField("documents", "must be a list of objects");
  return documents as readonly JsonObject[];
}

function readLogprobs(fields: Fields): number | undefined {
  const wanted = fields.boolean("logprobs") ?? false;
  const top = fields.integer("top_logprobs", 0, MAX_LOGPROBS);
  if (top !== undefined && !wanted) throw badField("top_logprobs", "needs logprobs: true");
  return wanted ? (top ?? 0) : undefined;
}

/** `max_completion_tokens` is OpenAI's newer name for `max_tokens`. */
function readMaxTokens(fields: Fields): number | undefined {
  const completion = fields.integer("max_completion_tokens", 1, Number.MAX_SAFE_INTEGER);
  const plain = fields.integer("max_tokens", 1, Number.MAX_SAFE_INTEGER);
  if (completion !== undefined && plain !== undefined && completion !== plain) {
    throw badField("max_completion_tokens", `${completion} and max_tokens ${plain} differ; send one of them`);
  }
  return completion ?? plain;
}

function readMessages(messages: JsonArray): ChatTurn[] {
  if (messages.length === 0) throw badField("messages", "must have at least one message");
  return messages.map((message, i) => {
    if (!isJsonObject(message)) throw badField(`messages[${i}]`, "must be an object with role and content");
    return readMessage(new Fields(message, `messages[${i}].`));
  });
}

const MESSAGE_FIELDS = ["role", "content", "name", "refusal", "tool_calls", "function_call", "audio", "tool_call_id", "reasoning_content"];

function readMessage(fields: Fields): ChatTurn {
  fields.refuseUnknown(MESSAGE_FIELDS);
  for (const name of ["function_call", "audio"]) {
    if (fields.raw(name) !== undefined) throw badField(fields.nameOf(name), "is not supported; leave it out");
  }
  for (const name of ["refusal", "reasoning_content"]) fields.string(name);
  const name = fields.string("name");
  const role = readRole(fields.required("role", fields.string("role")), fields);
  if (role !== "assistant" && fields.raw("tool_calls") !== undefined) throw badField(fields.nameOf("tool_calls"), "may only be in an assistant's message");
  if (role !== "tool" && fields.raw("tool_call_id") !== undefined) throw badField(fields.nameOf("tool_call_id"), "may only be in a tool's message");
  if (role === "tool") {
    const id = fields.required("tool_call_id", fields.string("tool_call_id"));
    return { role, content: readContent(fields), tool_call_id: id, ...(name === undefined ? {} : { name }) };
  }
  const calls = fields.array("tool_calls");
  if (calls === undefined || calls.length === 0) return { role, content: readContent(fields) };
  const content = fields.raw("content") === undefined ? "" : readContent(fields);
  return { role, content, tool_calls: calls.map((call, i) => readCall(call, fields.nameOf(`tool_calls[${i}]`))) };
}

function readCall(call: JsonValue, name: string) {
  if (!isJsonObject(call)) throw badField(name, "must be an object with id, type and function");
  const fields = new Fields(call, `${name}.`);
  // Clients add the index of a streamed call.
  fields.refuseUnknown(["id", "type", "function", "index"]);
  const inner = fields.required("function", fields.object("function"));
  inner.refuseUnknown(["name", "arguments"]);
  const text = inner.required("arguments", inner.string("arguments"));
  return {
    id: fields.string("id") ?? "",
    type: "function" as const,
    function: { name: inner.required("name", inner.string("name")), arguments: readArguments(text, inner.nameOf("arguments")) },
  };
}

function readArguments(text: string, name: string): JsonValue {
  if (text.trim() === "") return {};
  try {
    const value = JSON.parse(text) as JsonValue;
    if (isJsonObject(value)) return value;
  } catch {
    // The sentence below says it.
  }
  throw badField(name, "must be the JSON text of an object");
}

function readRole(role: string, fields: Fields): ChatTurn["role"] {
  switch (role) {
    case "system":
    case "user":
    case "assistant":
    case "tool":
      return role;
    case "developer":
      // OpenAI's newer word for what chat templates call system.
      return "system";
    case "function":
      throw badField(fields.nameOf("role"), `${shown(role)} is not supported; send a tool's answer with the role "tool"`);
    default:
      throw badField(fields.nameOf("role"), `must be system, developer, user, assistant or tool, got ${shown(role)}`);
  }
}

function readContent(fields: Fields): string {
  const content = fields.required("content", fields.raw("content"));
  if (typeof content === "string") return content;
  if (!isArray(content)) throw badField(fields.nameOf("content"), "must be a string or a list of text parts");
  return content.map((part, i) => readPart(part, `${fields.nameOf("content")}[${i}]`)).join("\n");
}

function readPart(part: JsonValue, name: string): string {
  if (!isJsonObject(part)) throw badField(name, 'must be an object like {"type": "text", "text": "..."}');
  const fields = new Fields(part, `${name}.`);
  const type = fields.required("type", fields.string("type"));
  if (type !== "text") throw badField(fields.nameOf("type"), `${shown(type)} is not supported; only "text" is`);
  fields.refuseUnknown(["type", "text"]);
  return fields.required("text", fields.string("text"));
}
