/** Every field that clients are known to send, and what becomes of it. */
import { type JsonObject, type JsonValue } from "../../formats/json.ts";
import type { SamplingParams } from "../../runtime/requests.ts";
import { badField } from "../error-response.ts";
import { shown } from "./fields.ts";
import { STRUCTURED_FIELDS } from "./structured-output.ts";

/** Passed on to the sampler under another spelling. */
export const SAMPLING_FIELDS = {
  temperature: "temperature",
  top_k: "topK",
  top_p: "topP",
  min_p: "minP",
  seed: "seed",
  repetition_penalty: "repetitionPenalty",
  presence_penalty: "presencePenalty",
  frequency_penalty: "frequencyPenalty",
  stop: "stop",
  stop_token_ids: "stopTokenIds",
  max_tokens: "maxTokens",
  min_tokens: "minTokens",
  n: "n",
  best_of: "bestOf",
  logit_bias: "logitBias",
  ignore_eos: "ignoreEos",
  include_stop_str_in_output: "includeStopStrInOutput",
  skip_special_tokens: "skipSpecialTokens",
} as const satisfies Record<string, keyof SamplingParams>;

/** Read by the routes themselves, in both APIs. */
const COMMON_FIELDS = [
  "model",
  "stream",
  "stream_options",
  "logprobs",
  "lora_request",
  "truncate_prompt_tokens",
  "return_token_ids",
  "return_tokens_as_token_ids",
  "return_timeline",
  "priority",
  "cache_salt",
  "timeout",
] as const;

/** For a service's books: they change no answer, so any value is taken and none is kept. */
export const IGNORED_FIELDS = [
  "user",
  "metadata",
  "store",
  "service_tier",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_retention",
] as const;

/** Not served: taken only when they say what happens anyway. */
interface Unserved {
  readonly [field: string]: readonly JsonValue[];
}

const COMMON_UNSERVED: Unserved = {
  use_beam_search: [false],
  length_penalty: [1, 0],
  early_stopping: [false],
  prompt_ignore_length: [0],
  prompt_logprobs: [],
  top_p_min: [0],
  spaces_between_special_tokens: [true],
  return_context_logits: [false],
  detokenize: [true],
  thinking_token_budget: [],
  disaggregated_params: [],
};

export interface FieldTable {
  readonly own: readonly string[];
  readonly unserved: Unserved;
}

export const COMPLETION_FIELDS: FieldTable = {
  own: ["prompt", "add_special_tokens", "echo"],
  unserved: { ...COMMON_UNSERVED, suffix: [""] },
};

export const CHAT_FIELDS: FieldTable = {
  own: [
    "messages",
    "top_logprobs",
    "max_completion_tokens",
    "add_generation_prompt",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "documents",
    "chat_template_kwargs",
  ],
  unserved: {
    ...COMMON_UNSERVED,
    echo: [false],
    add_special_tokens: [false],
    prompt_token_ids: [],
    functions: [],
    function_call: ["none"],
    reasoning_effort: [],
    verbosity: [],
    chat_template: [],
    mm_processor_kwargs: [],
    modalities: [],
    audio: [],
    prediction: [],
    web_search_options: [],
  },
};

export const knownFields = ({ own, unserved }: FieldTable): readonly string[] => [
  ...own,
  ...COMMON_FIELDS,
  ...Object.keys(SAMPLING_FIELDS),
  ...Object.keys(unserved),
  ...IGNORED_FIELDS,
  ...STRUCTURED_FIELDS,
];

/** @throws {RequestError} naming a field that asks for something that is not served */
export function refuseUnserved(body: JsonObject, { unserved }: FieldTable): void {
  for (const [field, harmless] of Object.entries(unserved)) {
    const value = body[field];
    if (value === undefined || value === null || harmless.includes(value)) continue;
    const instead = harmless.length === 0 ? "leave it out" : `leave it out or send ${shown(harmless[0])}`;
    throw badField(field, `${shown(value)} is not supported; ${instead}`);
  }
}
