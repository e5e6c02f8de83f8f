/** The body of `POST /v1/completions`. */
import type { JsonObject, JsonValue } from "../../formats/json.ts";
import { badField } from "../error-response.ts";
import { type CommonBody, readCommonBody } from "./common-body.ts";
import { Fields, isArray } from "./fields.ts";
import { COMPLETION_FIELDS } from "./known-fields.ts";

/** Most prompts in one body. */
export const MAX_PROMPTS = 128;
export const MAX_LOGPROBS = 20;

/** Text, or token ids that nobody has checked yet. */
export type PromptInput = string | readonly JsonValue[];

export interface CompletionBody extends CommonBody {
  readonly prompts: readonly PromptInput[];
  readonly addSpecialTokens: boolean;
  /** Whether each choice's text starts with its prompt. */
  readonly echo: boolean;
  /** Whether the prompt alone is wanted: `max_tokens: 0` with `echo`. */
  readonly asksNothing: boolean;
}

/** @throws {RequestError} `invalid_request` */
export function readCompletionBody(body: JsonObject): CompletionBody {
  const common = readCommonBody(body, COMPLETION_FIELDS, (fields) => fields.integer("logprobs", 0, MAX_LOGPROBS));
  const fields = new Fields(body);
  const echo = fields.boolean("echo") ?? false;
  const asksNothing = echo && fields.raw("max_tokens") === 0;
  return {
    ...common,
    params: {
      ...common.params,
      // One token at least is always generated.
      ...(asksNothing ? { maxTokens: 1 } : {}),
      ...(echo && common.params.logprobs !== null ? { promptLogprobs: common.params.logprobs ?? null } : {}),
    },
    asksNothing,
    prompts: readPrompts(fields.required("prompt", fields.raw("prompt"))),
    echo,
    addSpecialTokens: fields.boolean("add_special_tokens") ?? true,
  };
}

function readPrompts(prompt: JsonValue): readonly PromptInput[] {
  if (typeof prompt === "string") return [prompt];
  if (!isArray(prompt) || prompt.length === 0) throw badPrompt();
  if (typeof prompt[0] === "number") return [prompt];
  if (prompt.length > MAX_PROMPTS) {
    throw badField("prompt", `has ${prompt.length} prompts; at most ${MAX_PROMPTS} are taken in one request`);
  }
  return prompt.map((each) => {
    if (typeof each === "string" || isArray(each)) return each;
    throw badPrompt();
  });
}

const badPrompt = () =>
  badField("prompt", "must be a string, a list of strings, a list of token ids, or a list of lists of token ids");
