import { describe, expect, test } from "bun:test";
import type { ErrorBody } from "../../src/http/error-response.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { harness } from "./harness.ts";

const completion = { model: "demo", prompt: "hi" };
const tool = { type: "function", function: { name: "f" } };
const chat = { model: "demo", messages: [{ role: "user", content: "hi" }] };

/** What to send, and the status, code, param and a part of the message that come back. */
type Case = readonly [title: string, body: unknown, status: number, code: string, param: string | null, message: string];

const BAD = 400;
const INVALID = "invalid_request";

const completionCases: readonly Case[] = [
  ["no model", { prompt: "hi" }, BAD, INVALID, "model", "model is missing"],
  ["a model that is no string", { ...completion, model: 5 }, BAD, INVALID, "model", "model must be a string, got a number"],
  ["an unknown model", { ...completion, model: "sqll" }, 404, "model_not_found", "model", 'the model "sqll" is not served here (did you mean sql?)'],
  ["an unknown adapter of the base", { ...completion, model: "demo:nope" }, 404, "model_not_found", "model", '"demo:nope" is not served here'],
  ["no prompt", { model: "demo" }, BAD, INVALID, "prompt", "prompt is missing"],
  ["a prompt that is an object", { ...completion, prompt: {} }, BAD, INVALID, "prompt", "prompt must be a string, a list of strings"],
  ["no prompts", { ...completion, prompt: [] }, BAD, INVALID, "prompt", "prompt must be"],
  ["an empty list of ids", { ...completion, prompt: [[]] }, BAD, INVALID, "prompt", "at least one token"],
  ["ids and texts in one prompt", { ...completion, prompt: [1, "a"] }, BAD, INVALID, "prompt", "token ids are whole numbers from 0 to 258"],
  ["a negative id", { ...completion, prompt: [-1] }, BAD, INVALID, "prompt", "prompt has -1"],
  ["an id beyond the vocabulary", { ...completion, prompt: [[259]] }, BAD, INVALID, "prompt", "prompt has 259"],
  ["an id with a fraction", { ...completion, prompt: [1.5] }, BAD, INVALID, "prompt", "prompt has 1.5"],
  ["129 prompts", { ...completion, prompt: Array(129).fill("a") }, BAD, INVALID, "prompt", "has 129 prompts; at most 128"],
  ["a prompt longer than the context", { ...completion, prompt: "a".repeat(600) }, BAD, "context_length_exceeded", "prompt", "the prompt has 601 tokens"],
  ["a misspelt field", { ...completion, max_token: 5 }, BAD, INVALID, "max_token", "max_token is not a field of this request (did you mean max_tokens?)"],
  ["a field named __proto__", '{"model":"demo","prompt":"a","__proto__":{"stream":true}}', BAD, INVALID, "__proto__", "__proto__ is not a field"],
  ["a chat field", { ...completion, messages: [] }, BAD, INVALID, "messages", "messages is not a field"],
  ["a number as text", { ...completion, max_tokens: "5" }, BAD, INVALID, "max_tokens", 'max_tokens must be a whole number of at least 1, got "5"'],
  ["no tokens", { ...completion, max_tokens: 0 }, BAD, INVALID, "max_tokens", "max_tokens must be a whole number of at least 1, got 0"],
  ["more least than most tokens", { ...completion, max_tokens: 2, min_tokens: 3 }, BAD, INVALID, "min_tokens", "min_tokens must be at most max_tokens (2), got 3"],
  ["a negative temperature", { ...completion, temperature: -0.1 }, BAD, INVALID, "temperature", "temperature must be a number from 0 to 1000000, got -0.1"],
  ["a temperature as text", { ...completion, temperature: "hot" }, BAD, INVALID, "temperature", 'temperature must be a number from 0 to 1000000, got "hot"'],
  ["top_p above 1", { ...completion, top_p: 1.5 }, BAD, INVALID, "top_p", "top_p must be a number from 0 to 1, got 1.5"],
  ["a negative top_k", { ...completion, top_k: -1 }, BAD, INVALID, "top_k", "top_k must be a whole number from 0 to 2147483647, got -1"],
  ["min_p above 1", { ...completion, min_p: 2 }, BAD, INVALID, "min_p", "min_p must be a number from 0 to 1, got 2"],
  ["a seed with a fraction", { ...completion, seed: 0.5 }, BAD, INVALID, "seed", "seed must be a whole number, got 0.5"],
  ["a repetition penalty of 0", { ...completion, repetition_penalty: 0 }, BAD, INVALID, "repetition_penalty", "repetition_penalty must be a number from 0.01 to 100, got 0"],
  ["a presence penalty of 3", { ...completion, presence_penalty: 3 }, BAD, INVALID, "presence_penalty", "must be a number from -2 to 2, got"],
  ["a frequency penalty of -3", { ...completion, frequency_penalty: -3 }, BAD, INVALID, "frequency_penalty", "must be a number from -2 to 2, got"],
  ["nine choices", { ...completion, n: 9 }, BAD, INVALID, "n", "n must be a whole number from 1 to 8, got 9"],
  ["five stop strings", { ...completion, stop: ["a", "b", "c", "d", "e"] }, BAD, INVALID, "stop", "stop must be at most 4 strings, got 5"],
  ["an empty stop string", { ...completion, stop: "" }, BAD, INVALID, "stop", 'stop must be strings of 1 to 128 characters, got ""'],
  ["a stop token beyond the vocabulary", { ...completion, stop_token_ids: [999] }, BAD, INVALID, "stop_token_ids", "stop_token_ids must be token ids from 0 to 258, got 999"],
  ["a bias on no token", { ...completion, logit_bias: { a: 1 } }, BAD, INVALID, "logit_bias", 'logit_bias must be token ids from 0 to 258, got "a"'],
  ["21 logprobs", { ...completion, logprobs: 21 }, BAD, INVALID, "logprobs", "logprobs must be a whole number from 0 to 20, got 21"],
  ["logprobs as in chat", { ...completion, logprobs: true }, BAD, INVALID, "logprobs", "logprobs must be a whole number from 0 to 20, got true"],
  ["echo as text", { ...completion, echo: "yes" }, BAD, INVALID, "echo", 'echo must be true or false, got "yes"'],
  ["no tokens without an echo", { ...completion, max_tokens: 0 }, BAD, INVALID, "max_tokens", "max_tokens must be a whole number of at least 1"],
  ["best_of below n", { ...completion, n: 2, best_of: 1 }, BAD, INVALID, "best_of", "best_of must be at least n (2), got 1"],
  ["best_of as a stream", { ...completion, best_of: 2, stream: true }, BAD, INVALID, "best_of", "best_of must equal n with stream: true"],
  ["the best of greedy outputs", { ...completion, best_of: 2, temperature: 0 }, BAD, INVALID, "best_of", "best_of must be left out with greedy sampling"],
  ["more tokens than the context holds", { ...completion, max_tokens: 600 }, BAD, "context_length_exceeded", "max_tokens", "max_tokens asks for up to 600 more, but at most 512 fit together"],
  ["a priority in words", { ...completion, priority: "high" }, BAD, INVALID, "priority", 'priority must be a whole number from -1000000 to 1000000, got "high"'],
  ["no time", { ...completion, timeout: 0 }, BAD, INVALID, "timeout", "timeout must be a number of seconds above 0"],
  ["a suffix", { ...completion, suffix: "end" }, BAD, INVALID, "suffix", 'suffix "end" is not supported'],
  ["beam search", { ...completion, use_beam_search: true }, BAD, INVALID, "use_beam_search", "use_beam_search true is not supported"],
  ["a structural tag without a format", { ...completion, response_format: { type: "structural_tag" } }, BAD, INVALID, "response_format.format", "response_format.format is missing"],
  ["stream as text", { ...completion, stream: "yes" }, BAD, INVALID, "stream", 'stream must be true or false, got "yes"'],
  ["stream options without a stream", { ...completion, stream_options: { include_usage: true } }, BAD, INVALID, "stream_options", "only be sent together with stream: true"],
  ["an unknown stream option", { ...completion, stream: true, stream_options: { include_use: true } }, BAD, INVALID, "stream_options.include_use", "did you mean include_usage?"],
  ["a lora_request without a name", { ...completion, lora_request: { lora_int_id: 1 } }, BAD, INVALID, "lora_request.lora_name", "lora_request.lora_name is missing"],
  ["a lora_request with a negative id", { ...completion, lora_request: { lora_name: "sql", lora_int_id: -1 } }, BAD, INVALID, "lora_request.lora_int_id", "must be a whole number of at least 0, got -1"],
  ["a lora_request with an unknown field", { ...completion, lora_request: { lora_name: "sql", lora_pth: "x" } }, BAD, INVALID, "lora_request.lora_pth", "did you mean lora_path?"],
  ["a lora_request of an unknown format", { ...completion, lora_request: { lora_name: "sql", lora_ckpt_source: "gguf" } }, BAD, INVALID, "lora_request.lora_ckpt_source", 'must be "hf" or "nemo"'],
  ["an unknown lora_request", { ...completion, lora_request: { lora_name: "nope" } }, 404, "adapter_not_found", "lora_request", 'there is no adapter "nope"'],
  ["two adapters at once", { ...completion, model: "sql", lora_request: { lora_name: "translate-fr" } }, BAD, INVALID, "lora_request", "name one of them"],
  ["a body that is a list", "[]", BAD, INVALID, null, "must be an object"],
  ["a body that is no JSON", '{"model": demo}', BAD, INVALID, null, "the body is not usable"],
  ["an empty body", "", BAD, INVALID, null, "the body is empty"],
  ["a key twice", '{"model":"demo","model":"sql","prompt":"a"}', BAD, INVALID, null, 'the key "model" appears twice'],
  ["100 levels", `{"model":"demo","prompt":${"[".repeat(100)}${"]".repeat(100)}}`, BAD, INVALID, null, "nests deeper than the 32 levels allowed"],
  ["a number beyond float64", '{"model":"demo","prompt":"a","temperature":1e999}', BAD, INVALID, null, "float64"],
  ["a lone surrogate", '{"model":"demo","prompt":"\\ud800"}', BAD, INVALID, null, "lone surrogates"],
  ["bytes that are no UTF-8", new Uint8Array([0x7b, 0xff, 0x7d]), BAD, INVALID, null, "not valid UTF-8"],
];

const chatCases: readonly Case[] = [
  ["no messages", { model: "demo" }, BAD, INVALID, "messages", "messages is missing"],
  ["an empty conversation", { ...chat, messages: [] }, BAD, INVALID, "messages", "at least one message"],
  ["messages as text", { ...chat, messages: "hi" }, BAD, INVALID, "messages", "messages must be a list, got a string"],
  ["a message that is text", { ...chat, messages: ["hi"] }, BAD, INVALID, "messages[0]", "must be an object with role and content"],
  ["an unknown role", { ...chat, messages: [{ role: "robot", content: "x" }] }, BAD, INVALID, "messages[0].role", 'got "robot"'],
  ["a tool's message", { ...chat, messages: [{ role: "tool", content: "x" }] }, BAD, INVALID, "messages[0].tool_call_id", "is missing"],
  ["a function's message", { ...chat, messages: [{ role: "function", name: "f", content: "x" }] }, BAD, INVALID, "messages[0].role", 'send a tool\'s answer with the role "tool"'],
  ["a user's tool call", { ...chat, messages: [{ role: "user", content: "x", tool_calls: [] }] }, BAD, INVALID, "messages[0].tool_calls", "may only be in an assistant's message"],
  ["arguments that are no object", { ...chat, messages: [{ role: "assistant", tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "[1]" } }] }] }, BAD, INVALID, "messages[0].tool_calls[0].function.arguments", "must be the JSON text of an object"],
  ["no content", { ...chat, messages: [{ role: "user" }] }, BAD, INVALID, "messages[0].content", "messages[0].content is missing"],
  ["a picture", { ...chat, messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] }, BAD, INVALID, "messages[0].content[0].type", '"image_url" is not supported'],
  ["a part without text", { ...chat, messages: [{ role: "user", content: [{ type: "text" }] }] }, BAD, INVALID, "messages[0].content[0].text", "is missing"],
  ["a tool without a function", { ...chat, tools: [{}] }, BAD, INVALID, "tools[0].function", "tools[0].function is missing"],
  ["a tool of another kind", { ...chat, tools: [{ type: "web_search" }] }, BAD, INVALID, "tools[0].type", '"web_search" is not supported; only "function" is'],
  ["a tool with a strange name", { ...chat, tools: [{ type: "function", function: { name: "a b" } }] }, BAD, INVALID, "tools[0].function.name", "letters, digits"],
  ["one tool twice", { ...chat, tools: [tool, tool] }, BAD, INVALID, "tools", 'tools has two functions named "f"'],
  ["tools where the template has none", { ...chat, tools: [tool] }, BAD, INVALID, "tools", "this model's chat template has no place for tools"],
  ["a forced tool and none", { ...chat, tool_choice: "required" }, BAD, INVALID, "tool_choice", "tool_choice may only be sent together with tools"],
  ["a tool that is not there", { ...chat, tools: [tool], tool_choice: { type: "function", function: { name: "g" } } }, BAD, INVALID, "tool_choice.function.name", '"g" is not among the tools'],
  ["a forced tool and a schema", { ...chat, tools: [tool], tool_choice: "required", guided_regex: "a" }, BAD, INVALID, "guided_regex", "cannot be sent together with a tool_choice"],
  ["top_logprobs alone", { ...chat, top_logprobs: 3 }, BAD, INVALID, "top_logprobs", "needs logprobs: true"],
  ["logprobs as in completions", { ...chat, logprobs: 3 }, BAD, INVALID, "logprobs", "logprobs must be true or false, got 3"],
  ["two different lengths", { ...chat, max_tokens: 3, max_completion_tokens: 4 }, BAD, INVALID, "max_completion_tokens", "differ"],
  ["a length as text", { ...chat, max_completion_tokens: "4" }, BAD, INVALID, "max_completion_tokens", "must be a whole number"],
  ["a template of the client's", { ...chat, chat_template: "{{ 1 }}" }, BAD, INVALID, "chat_template", "not supported"],
  ["a JSON schema", { ...chat, response_format: { type: "json_schema", json_schema: {} } }, BAD, INVALID, "response_format.json_schema.schema", "is missing"],
  ["a prompt", { ...chat, prompt: "hi" }, BAD, INVALID, "prompt", "prompt is not a field"],
];

describe.each([
  ["/v1/completions", completionCases],
  ["/v1/chat/completions", chatCases],
])("%s", (path, cases) => {
  test.each(cases)("refuses %s", async (_, body, status, code, param, message) => {
    const { post, runtime } = harness();
    const response = await post(path, body);
    const { error } = (await response.json()) as ErrorBody;
    expect({ status: response.status, code: error.code as string, param: error.param }).toEqual({ status, code, param });
    expect(error.message).toContain(message);
    expect(runtime.sequences).toEqual([]);
  });

  test("goes on serving after every one of them", async () => {
    const { post } = harness();
    for (const [, body] of cases) await post(path, body);
    const good = path === "/v1/completions" ? completion : chat;
    expect((await post(path, good)).status).toBe(200);
  });
});

describe("the body's envelope", () => {
  const refusal = async (response: Response) => {
    const { error } = (await response.json()) as ErrorBody;
    return [response.status, error.code, error.type] as const;
  };

  test.each(["text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=latin1"])(
    "is refused as %p",
    async (type) => {
      const response = await harness().post("/v1/completions", completion, { headers: { "content-type": type } });
      expect(await refusal(response)).toEqual([415, "unsupported_media_type", "invalid_request_error"]);
    },
  );

  test("may name its character set", async () => {
    const headers = { "content-type": 'Application/JSON; charset="UTF-8"' };
    expect((await harness().post("/v1/completions", completion, { headers })).status).toBe(200);
  });

  test("is refused compressed", async () => {
    const response = await harness().post("/v1/completions", completion, { headers: { "content-encoding": "gzip" } });
    expect(await refusal(response)).toEqual([415, "unsupported_media_type", "invalid_request_error"]);
  });

  test("is refused above 2 MiB, whether its length is announced or not", async () => {
    const { post, fetch } = harness();
    const big = JSON.stringify({ ...completion, prompt: "a".repeat(2 * 1024 * 1024) });
    expect(await refusal(await post("/v1/completions", big))).toEqual([413, "payload_too_large", "invalid_request_error"]);
    const parts = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(big));
        controller.close();
      },
    });
    const unannounced = await fetch("/v1/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: parts,
    });
    expect(await refusal(unannounced)).toEqual([413, "payload_too_large", "invalid_request_error"]);
  });

  test("is given up when it stops arriving", async () => {
    const { deps, fetch } = harness();
    Object.assign(deps, { bodyLimits: { ...deps.bodyLimits, stallMs: 5 } });
    const never = new ReadableStream({ start: (controller) => controller.enqueue(new Uint8Array([0x7b])) });
    const response = await fetch("/v1/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: never,
    });
    expect(await refusal(response)).toEqual([400, "invalid_request", "invalid_request_error"]);
  });
});

describe("fields that change no answer", () => {
  test.each(["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"])(
    "%s is taken and ignored",
    async (field) => {
      expect((await harness().post("/v1/chat/completions", { ...chat, [field]: "x" })).status).toBe(200);
    },
  );

  test("fields that say what happens anyway are taken", async () => {
    const body = { ...completion, echo: false, best_of: 1, suffix: null, response_format: { type: "text" }, detokenize: true };
    expect((await harness().post("/v1/completions", body)).status).toBe(200);
  });

  test("null means left out", async () => {
    const body = { ...completion, max_tokens: null, stop: null, temperature: null, lora_request: null, stream: null };
    expect((await harness().post("/v1/completions", body)).status).toBe(200);
  });
});

test("a full queue is 429 with Retry-After, and keeps none of a request's sequences", async () => {
  const runtime = new FakeRuntime({ maxRequests: 2, script: () => undefined });
  const { post } = harness(runtime);
  const response = await post("/v1/completions", { ...completion, n: 3, stream: true });
  expect(response.status).toBe(429);
  expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
  const { error } = (await response.json()) as ErrorBody;
  expect([error.code, error.type]).toEqual(["queue_full", "rate_limit_error"]);
  expect(runtime.live).toEqual([]);
});

test("text is refused where the model has no tokenizer, and token ids are served", async () => {
  const { post } = harness(new FakeRuntime({ hasTokenizer: false }));
  expect((await post("/v1/completions", completion)).status).toBe(400);
  expect((await post("/v1/completions", { model: "demo", prompt: [1, 2] })).status).toBe(200);
});
