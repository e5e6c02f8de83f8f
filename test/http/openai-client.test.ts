import { describe, expect, test } from "bun:test";
import OpenAI, { APIError, AuthenticationError, BadRequestError, NotFoundError, RateLimitError } from "openai";
import { FakeRuntime, type FakeRuntimeOptions, saying } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { startServer } from "./harness.ts";

const KEY = "sk-test";

function connect(options: FakeRuntimeOptions = {}) {
  const runtime = new FakeRuntime(options);
  const server = startServer(runtime, { apiKeys: [KEY], headersAfterMs: 1 });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, maxRetries: 0 });
  return { ...server, runtime, client };
}

const chat = { model: "sql", messages: [{ role: "user" as const, content: "How many users?" }] };
const failure = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => null, (thrown: unknown) => thrown);

describe("the openai client", () => {
  test("chats", async () => {
    await using server = connect({ script: saying("SELECT 1;") });
    const answer = await server.client.chat.completions.create(chat);
    expect(answer.choices[0]!.message.content).toBe("SELECT 1;");
    expect(answer.model).toBe("sql");
    expect(answer.usage).toMatchObject({ completion_tokens: 9 });
  });

  test("streams a chat with usage", async () => {
    await using server = connect({ script: saying("SELECT count(*) FROM users;") });
    const stream = await server.client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } });
    let text = "";
    let usage = 0;
    const reasons: string[] = [];
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage?.completion_tokens ?? usage;
      if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    }
    expect([text, usage, reasons]).toEqual(["SELECT count(*) FROM users;", 27, ["stop"]]);
  });

  test("collects a stream with its helper", async () => {
    await using server = connect({ script: saying("One day Rosa went home.") });
    const completion = await server.client.chat.completions.stream({ ...chat, logprobs: true, top_logprobs: 2 }).finalChatCompletion();
    expect(completion.choices[0]!.message.content).toBe("One day Rosa went home.");
    expect(completion.choices[0]!.logprobs!.content!.length).toBe(23);
  });

  test("completes, with log-probabilities and through lora_request", async () => {
    await using server = connect({ script: saying("ab") });
    const extra = { lora_request: { lora_name: "translate-fr", lora_int_id: 2 } };
    const answer = await server.client.completions.create({ model: "demo", prompt: "hi", logprobs: 1, ...extra });
    expect(answer.choices[0]).toMatchObject({ text: "ab", logprobs: { tokens: ["a", "b"], text_offset: [0, 1] } });
    expect(server.runtime.sequences[0]!.request.adapter as number).toBe(1);
  });

  test("streams completions of several prompts", async () => {
    await using server = connect({ script: saying("x y") });
    const texts = ["", ""];
    for await (const { choices } of await server.client.completions.create({ model: "demo", prompt: ["a", "b"], stream: true })) {
      for (const { index, text } of choices) texts[index] += text;
    }
    expect(texts).toEqual(["x y", "x y"]);
  });

  test("lists models", async () => {
    await using server = connect();
    const ids: string[] = [];
    for await (const model of server.client.models.list()) ids.push(model.id);
    expect(ids).toEqual(["demo", "sql", "translate-fr"]);
    expect((await server.client.models.retrieve("sql")).id).toBe("sql");
  });

  test("gets its own error classes, with param and code", async () => {
    await using server = connect({ maxRequests: 0 });
    const { client } = server;
    const bad = await failure(client.chat.completions.create({ ...chat, temperature: -1 }));
    expect(bad).toBeInstanceOf(BadRequestError);
    expect(bad).toMatchObject({ status: 400, param: "temperature", code: "invalid_request", type: "invalid_request_error" });
    expect(await failure(client.chat.completions.create({ ...chat, model: "nope" }))).toBeInstanceOf(NotFoundError);
    expect(await failure(client.chat.completions.create({ ...chat, stream: true }))).toBeInstanceOf(RateLimitError);
    const stranger = new OpenAI({ baseURL: client.baseURL, apiKey: "sk-other", maxRetries: 0 });
    expect(await failure(stranger.chat.completions.create(chat))).toBeInstanceOf(AuthenticationError);
  });

  test("sees an error in the middle of a stream", async () => {
    await using server = connect({
      script: (sequence) => {
        sequence.say("One ");
        setTimeout(() => sequence.end("timeout"), 1);
      },
    });
    let text = "";
    const read = async () => {
      for await (const chunk of await server.client.chat.completions.create({ ...chat, stream: true })) {
        text += chunk.choices[0]?.delta.content ?? "";
      }
    };
    const thrown = await failure(read());
    expect(thrown).toBeInstanceOf(APIError);
    expect((thrown as APIError).message).toContain("longer than the server's limit");
    expect(text).toBe("One ");
  });

  test("aborts a stream, and the sequence ends", async () => {
    await using server = connect({ script: (sequence) => sequence.say("One ") });
    const stream = await server.client.chat.completions.create({ ...chat, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
    await until(() => server.runtime.live.length === 0);
    expect(server.runtime.sequences[0]!.isCancelled).toBe(true);
  });

  test("aborts a whole answer that is still being computed", async () => {
    await using server = connect({ script: () => undefined });
    const controller = new AbortController();
    const answer = failure(server.client.chat.completions.create(chat, { signal: controller.signal }));
    await until(() => server.runtime.live.length === 1);
    controller.abort();
    expect(await answer).toBeInstanceOf(Error);
    await until(() => server.runtime.live.length === 0);
    expect(server.runtime.sequences[0]!.isCancelled).toBe(true);
  });
});
