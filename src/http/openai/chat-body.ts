/** The body of `POST /v1/chat/completions`. */
import { type JsonArray, type JsonObject, type JsonValue, isJsonObject } from "../../formats/json.ts";
import { badField } from "../error-response.ts";
import { type CommonBody, readCommonBody } from "./common-body.ts";
import { MAX_LOGPROBS } from "./completion-body.ts";
import { Fields, isArray, shown } from "./fields.ts";
import { CHAT_FIELDS } from "./known-fields.ts";

export interface ChatTurn {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface ChatBody extends CommonBody {
  readonly messages: readonly ChatTurn[];
  readonly addGenerationPrompt: boolean;
}

/** @throws {RequestError} `invalid_request` */
export function readChatBody(body: JsonObject): ChatBody {
  const common = readCommonBody(body, CHAT_FIELDS, readLogprobs);
  const fields = new Fields(body);
  const maxTokens = readMaxTokens(fields);
  return {
    ...common,
    params: { ...common.params, maxTokens: maxTokens ?? null },
    messages: readMessages(fields.required("messages", fields.array("messages"))),
    addGenerationPrompt: fields.boolean("add_generation_prompt") ?? true,
  };
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

const MESSAGE_FIELDS = ["role", "content", "name", "refusal", "tool_calls", "function_call", "audio", "tool_call_id"];

function readMessage(fields: Fields): ChatTurn {
  fields.refuseUnknown(MESSAGE_FIELDS);
  for (const name of ["refusal", "tool_calls", "function_call", "audio", "tool_call_id"]) {
    const value = fields.raw(name);
    if (value !== undefined) throw badField(fields.nameOf(name), "is not supported; leave it out");
  }
  fields.string("name");
  const role = fields.required("role", fields.string("role"));
  return { role: readRole(role, fields), content: readContent(fields) };
}

function readRole(role: string, fields: Fields): ChatTurn["role"] {
  switch (role) {
    case "system":
    case "user":
    case "assistant":
      return role;
    case "developer":
      // OpenAI's newer word for what chat templates call system.
      return "system";
    case "tool":
    case "function":
      throw badField(fields.nameOf("role"), `${shown(role)} is not supported: tools are not served yet`);
    default:
      throw badField(fields.nameOf("role"), `must be system, developer, user or assistant, got ${shown(role)}`);
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
