import { describe, expect, test } from "bun:test";
import { RequestError } from "../../src/core/errors.ts";
import { compileChatTemplate } from "../../src/model/chat-template.ts";
import { chatEncoder } from "../../src/runtime/chat.ts";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { fakeTokenizer } from "../helpers/fake-tokenizer.ts";
import { dataOf, harness } from "./harness.ts";

const body = { model: "demo", messages: [{ role: "user", content: "hi" }] };
const head = (object: string) => ({ id: expect.stringMatching(/^chatcmpl-/), object, created: expect.any(Number), model: "demo" });

describe("a chat completion", () => {
  test("has OpenAI's fields", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    expect(await (await post("/v1/chat/completions", body)).json()).toEqual({
      ...head("chat.completion"),
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "One day.", refusal: null },
          logprobs: null,
          finish_reason: "stop",
          stop_reason: null,
        },
      ],
      usage: { prompt_tokens: 10, completion_tokens: 8, total_tokens: 18 },
    });
  });

  test("puts roles and text parts into the template's terms", async () => {
    const { post, runtime } = harness();
    const messages = [
      { role: "developer", content: "Be brief." },
      { role: "user", name: "ada", content: [{ type: "text", text: "one" }, { type: "text", text: "two" }] },
      { role: "assistant", content: "three" },
    ];
    await post("/v1/chat/completions", { ...body, messages });
    expect(fakeTokenizer.decode(runtime.sequences[0]!.request.promptTokens, { skipSpecialTokens: true })).toBe(
      "system: Be brief.\nuser: one\ntwo\nassistant: three\n",
    );
  });

  test("hands documents and further variables to the template, which renders them", async () => {
    const source = "{% for d in documents or [] %}[{{ d.title }}]{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}{% if add_generation_prompt %}>{% endif %}";
    const chatTemplate = compileChatTemplate({ name: "a test", text: source }, {});
    const { post, runtime } = harness(new FakeRuntime(), { encodeChat: chatEncoder({ tokenizer: fakeTokenizer, chatTemplate }) });
    const promptOf = async (more: object) => {
      expect((await post("/v1/chat/completions", { ...body, max_tokens: 1, ...more })).status).toBe(200);
      return fakeTokenizer.decode(runtime.sequences.at(-1)!.request.promptTokens, { skipSpecialTokens: true });
    };
    const documents = [{ title: "One", text: "a" }, { title: "Two" }];
    expect(await promptOf({ documents, chat_template_kwargs: { mood: "!", messages: [], documents: [] } })).toBe("[One][Two]hi!>");
    expect(await promptOf({ add_generation_prompt: false })).toBe("hi");
  });

  test.each([
    [{ documents: "one" }, "documents", "must be a list, got a string"],
    [{ documents: ["one"] }, "documents", "must be a list of objects"],
    [{ chat_template_kwargs: ["x"] }, "chat_template_kwargs", "must be an object, got an array"],
    [{ add_generation_prompt: 1 }, "add_generation_prompt", "must be true or false, got 1"],
  ])("refuses %j", async (more, param, words) => {
    const { post } = harness();
    const response = await post("/v1/chat/completions", { ...body, ...more });
    expect({ status: response.status, ...(await response.json() as { error: object }).error }).toMatchObject({ status: 400, param, message: expect.stringContaining(words) });
  });

  test("takes its length under both names", async () => {
    for (const name of ["max_tokens", "max_completion_tokens"]) {
      const { post, runtime } = harness();
      const answer = await (await post("/v1/chat/completions", { ...body, [name]: 4 })).json();
      expect(runtime.sequences[0]!.request.sampling.maxTokens).toBe(4);
      expect(answer).toMatchObject({ choices: [{ finish_reason: "length", message: { content: "One " } }] });
    }
  });

  test("gives log-probabilities per token with bytes and alternatives", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("a") }));
    const answer = await (await post("/v1/chat/completions", { ...body, logprobs: true, top_logprobs: 2 })).json();
    const entry = (token: string, logprob: number) => ({ token, bytes: [token.charCodeAt(0)], logprob });
    expect(answer).toMatchObject({
      choices: [{ logprobs: { content: [{ ...entry("a", -0.5), top_logprobs: [entry("a", -0.5), entry("b", -1.5)] }] } }],
    });
  });

  test("is refused with the template's own sentence where the model cannot chat", async () => {
    const encodeChat = () => {
      throw new RequestError("invalid_request", "the model has no chat template; use /v1/completions", { field: "messages" });
    };
    const response = await harness(new FakeRuntime(), { encodeChat }).post("/v1/chat/completions", body);
    expect([response.status, await response.json()]).toMatchObject([
      400,
      { error: { message: "the model has no chat template; use /v1/completions", param: "messages" } },
    ]);
  });
});

describe("a streamed chat completion", () => {
  test("gives the role first, the reason last, then usage and [DONE]", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    const response = await post("/v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } });
    const chunk = { ...head("chat.completion.chunk"), usage: null };
    const choice = { index: 0, logprobs: null, finish_reason: null };
    expect(dataOf(await response.text())).toEqual([
      { ...chunk, choices: [{ ...choice, delta: { role: "assistant", content: "" } }] },
      { ...chunk, choices: [{ ...choice, delta: { content: "One " } }] },
      { ...chunk, choices: [{ ...choice, delta: { content: "day." } }] },
      { ...chunk, choices: [{ ...choice, delta: {}, finish_reason: "stop", stop_reason: null }] },
      { ...chunk, choices: [], usage: { prompt_tokens: 10, completion_tokens: 8, total_tokens: 18 } },
      "[DONE]",
    ]);
  });

  test("gives each of n choices its own role and reason", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("Yes.") }));
    const response = await post("/v1/chat/completions", { ...body, stream: true, n: 3 });
    const chunks = dataOf(await response.text()).slice(0, -1) as readonly { readonly choices: readonly [{ index: number; delta: object; finish_reason: string | null }] }[];
    for (const index of [0, 1, 2]) {
      const own = chunks.map(({ choices: [choice] }) => choice).filter((choice) => choice.index === index);
      expect(own.map(({ delta, finish_reason }) => [delta, finish_reason])).toEqual([
        [{ role: "assistant", content: "" }, null],
        [{ content: "Yes." }, null],
        [{}, "stop"],
      ]);
    }
  });

  test("carries log-probabilities with the pieces", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("ab cd") }));
    const response = await post("/v1/chat/completions", { ...body, stream: true, logprobs: true });
    const pieces = dataOf(await response.text()).slice(1, 3) as readonly { readonly choices: readonly [{ logprobs: { content: { token: string }[] } }] }[];
    expect(pieces.map(({ choices }) => choices[0].logprobs.content.map(({ token }) => token))).toEqual([["a", "b", " "], ["c", "d"]]);
  });
});
