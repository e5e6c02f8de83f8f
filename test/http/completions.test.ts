import { describe, expect, test } from "bun:test";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { dataOf, harness } from "./harness.ts";

const body = { model: "demo", prompt: "hi" };
const json = async (response: Response) => (await response.json()) as Record<string, unknown>;

describe("a completion", () => {
  test("has OpenAI's fields", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    const answer = await json(await post("/v1/completions", body));
    expect(answer).toEqual({
      id: expect.stringMatching(/^cmpl-[0-9a-f]{32}$/),
      object: "text_completion",
      created: expect.any(Number),
      model: "demo",
      choices: [{ index: 0, text: "One day.", logprobs: null, finish_reason: "stop", stop_reason: null }],
      usage: { prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 },
    });
  });

  test.each([
    ["a text", "hi", [[256, 104, 105]]],
    ["texts", ["hi", "ho"], [[256, 104, 105], [256, 104, 111]]],
    ["token ids", [1, 2, 3], [[1, 2, 3]]],
    ["lists of token ids", [[1], [2, 3]], [[1], [2, 3]]],
  ])("takes %s as prompt", async (_, prompt, tokens) => {
    const { post, runtime } = harness();
    expect((await post("/v1/completions", { ...body, prompt })).status).toBe(200);
    expect(runtime.sequences.map(({ request }) => request.promptTokens)).toEqual(tokens);
  });

  test("numbers the choices prompt by prompt, and counts each prompt once", async () => {
    const runtime = new FakeRuntime({
      script: (sequence) => {
        const { promptTokens, sampling } = sequence.request;
        sequence.say(`${promptTokens[0]}/${sampling.seed}`);
        sequence.end("stop");
      },
    });
    const answer = await json(await harness(runtime).post("/v1/completions", { ...body, prompt: [[7], [8, 8]], n: 2, seed: 5 }));
    const choices = answer["choices"] as readonly { readonly index: number; readonly text: string }[];
    expect(choices.map(({ index, text }) => [index, text])).toEqual([[0, "7/5"], [1, "7/6"], [2, "8/5"], [3, "8/6"]]);
    expect(answer["usage"]).toEqual({ prompt_tokens: 3, completion_tokens: 12, total_tokens: 15 });
  });

  test("gives log-probabilities with text offsets in code points", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("aé!") }));
    const answer = await json(await post("/v1/completions", { ...body, logprobs: 2 }));
    const [choice] = answer["choices"] as readonly { readonly logprobs: object }[];
    expect(choice!.logprobs).toEqual({
      tokens: ["a", "bytes:\\xc3", "bytes:\\xa9", "!"],
      token_logprobs: [-0.5, -0.5, -0.5, -0.5],
      top_logprobs: [
        { a: -0.5, b: -1.5 },
        { "bytes:\\xc3": -0.5, "bytes:\\xc4": -1.5 },
        { "bytes:\\xa9": -0.5, "bytes:\\xaa": -1.5 },
        { "!": -0.5, '"': -1.5 },
      ],
      text_offset: [0, 1, 1, 2],
    });
  });

  test("gives token ids when asked", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("ab") }));
    const answer = await json(await post("/v1/completions", { ...body, return_token_ids: true, logprobs: 0, return_tokens_as_token_ids: true }));
    expect(answer["choices"]).toMatchObject([
      { token_ids: [97, 98], prompt_token_ids: [256, 104, 105], logprobs: { tokens: ["token_id:97", "token_id:98"] } },
    ]);
  });

  test("passes every sampling field on", async () => {
    const { post, runtime } = harness();
    await post("/v1/completions", {
      ...body,
      temperature: 0.7, top_k: 5, top_p: 0.9, min_p: 0.1, seed: 42, repetition_penalty: 1.1, presence_penalty: 0.5,
      frequency_penalty: -0.5, stop: ["x", "y"], stop_token_ids: [7], max_tokens: 9, min_tokens: 2, logit_bias: { 65: -100 },
      ignore_eos: true, include_stop_str_in_output: true, skip_special_tokens: false, logprobs: 3,
    });
    expect(runtime.sequences[0]!.request.sampling).toEqual({
      temperature: 0.7, topK: 5, topP: 0.9, minP: 0.1, seed: 42n, repetitionPenalty: 1.1, presencePenalty: 0.5,
      frequencyPenalty: -0.5, stop: ["x", "y"], stopTokenIds: new Set([7]), eosTokenIds: new Set(), maxTokens: 9, minTokens: 2,
      logitBias: new Map([[65, -100]]), includeStop: true, skipSpecialTokens: false, logprobs: 3,
    });
  });

  test("is not greedy unless asked, and as long as the context allows", async () => {
    const { post, runtime } = harness(new FakeRuntime({ maxContext: 50 }));
    await post("/v1/completions", body);
    expect(runtime.sequences[0]!.request.sampling).toMatchObject({ temperature: 1, maxTokens: 47 });
  });

  test("keeps the prompt's last tokens with truncate_prompt_tokens", async () => {
    const { post, runtime } = harness(new FakeRuntime({ maxContext: 20 }));
    const answer = await json(await post("/v1/completions", { ...body, prompt: "a".repeat(100), truncate_prompt_tokens: 4 }));
    expect(runtime.sequences[0]!.request.promptTokens).toEqual([97, 97, 97, 97]);
    expect(answer["usage"]).toMatchObject({ prompt_tokens: 4 });
  });

  test("leaves special tokens away when asked", async () => {
    const { post, runtime } = harness();
    await post("/v1/completions", { ...body, add_special_tokens: false });
    expect(runtime.sequences[0]!.request.promptTokens).toEqual([104, 105]);
  });
});

describe("a streamed completion", () => {
  test("is one chunk per piece, the last with its reason, then [DONE]", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    const response = await post("/v1/completions", { ...body, stream: true });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const head = { id: expect.any(String), object: "text_completion", created: expect.any(Number), model: "demo" };
    const choice = { index: 0, logprobs: null, finish_reason: null, stop_reason: null };
    expect(dataOf(await response.text())).toEqual([
      { ...head, choices: [{ ...choice, text: "One " }] },
      { ...head, choices: [{ ...choice, text: "day." }] },
      { ...head, choices: [{ ...choice, text: "", finish_reason: "stop" }] },
      "[DONE]",
    ]);
  });

  test("has a usage chunk without choices when asked, and usage: null before it", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    const response = await post("/v1/completions", { ...body, stream: true, stream_options: { include_usage: true } });
    const chunks = dataOf(await response.text()).slice(0, -1) as readonly { readonly choices: unknown[]; readonly usage: unknown }[];
    expect(chunks.slice(0, -1).map(({ usage }) => usage)).toEqual([null, null, null]);
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 } });
  });

  test("counts on with every chunk for continuous_usage_stats", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("One day.") }));
    const options = { stream: true, stream_options: { continuous_usage_stats: true } };
    const chunks = dataOf(await (await post("/v1/completions", { ...body, ...options })).text()).slice(0, -1);
    expect(chunks.map((chunk) => (chunk as { usage: { completion_tokens: number } }).usage.completion_tokens)).toEqual([4, 8, 8]);
  });

  test("has the same text, tokens and offsets as the whole answer", async () => {
    const script = saying("Él dijo: ¡hola, señor! 👋 fin");
    const asked = { ...body, logprobs: 1, n: 2, prompt: ["a", "b"] };
    const whole = await json(await harness(new FakeRuntime({ script })).post("/v1/completions", asked));
    const response = await harness(new FakeRuntime({ script })).post("/v1/completions", { ...asked, stream: true });
    type Choice = { index: number; text: string; logprobs: Record<string, unknown[]> };
    const joined: Choice[] = [];
    for (const chunk of dataOf(await response.text()).slice(0, -1) as readonly { readonly choices: Choice[] }[]) {
      for (const { index, text, logprobs } of chunk.choices) {
        const own = (joined[index] ??= { index, text: "", logprobs: {} });
        own.text += text;
        for (const [key, list] of Object.entries(logprobs)) own.logprobs[key] = [...(own.logprobs[key] ?? []), ...list];
      }
    }
    const expected = (whole["choices"] as readonly Choice[]).map(({ index, text, logprobs }) => ({ index, text, logprobs }));
    expect(joined).toEqual(expected);
  });
});

describe("the adapter", () => {
  test.each([
    ["no one", { model: "demo" }, null],
    ["its name", { model: "sql" }, 0],
    ["base:name", { model: "demo:translate-fr" }, 1],
    ["a lora_request", { model: "demo", lora_request: { lora_name: "translate-fr", lora_int_id: 9 } }, 1],
    ["both, when they agree", { model: "sql", lora_request: { lora_name: "sql" } }, 0],
  ])("is named by %s, and the answer echoes the model", async (_, named, adapter) => {
    const { post, runtime } = harness();
    const answer = await json(await post("/v1/completions", { ...body, ...named }));
    expect(runtime.sequences[0]!.request.adapter as number | null).toBe(adapter);
    expect(answer["model"]).toBe(named.model);
  });

  test("may be named by a path, which the runtime judges", async () => {
    const { post, runtime } = harness();
    const lora_request = { lora_name: "mine", lora_int_id: 3, lora_path: "adapters/mine" };
    expect((await post("/v1/completions", { ...body, lora_request })).status).toBe(200);
    expect(runtime.references).toEqual([{ name: "mine", intId: 3, path: "adapters/mine" }]);
  });
});

describe("the list of models", () => {
  test("has the base and its adapters, with parent and root", async () => {
    const { fetch } = harness();
    const list = await json(await fetch("/v1/models"));
    expect(list["data"]).toMatchObject([
      { id: "demo", object: "model", root: "demo", parent: null, max_model_len: 512 },
      { id: "sql", object: "model", root: "demo", parent: "demo" },
      { id: "translate-fr", root: "demo", parent: "demo" },
    ]);
  });

  test("can be asked for one, slashes and all", async () => {
    const { fetch } = harness(new FakeRuntime({ adapters: ["team/sql"] }));
    for (const id of ["team/sql", "team%2Fsql"]) {
      expect(await json(await fetch(`/v1/models/${id}`))).toMatchObject({ id: "team/sql", parent: "demo" });
    }
    expect((await fetch("/v1/models/demo")).status).toBe(200);
    const missing = await fetch("/v1/models/team/sq");
    expect([missing.status, await missing.json()]).toMatchObject([404, { error: { code: "model_not_found", param: "model" } }]);
  });
});

describe("best_of, echo, priority and timeout", () => {
  /** Says how many sequences there were before; the later, the likelier. */
  const numbered = () => {
    let count = 0;
    return new FakeRuntime({
      script: (sequence) => {
        const token = { id: 97 + count, logprob: -10 + count, rank: 1, top: [] };
        sequence.tokens.push(token);
        sequence.stream.push(String.fromCharCode(97 + count++), [token]);
        sequence.end("stop");
      },
    });
  };

  test("gives the likeliest n of best_of for each prompt, and counts all", async () => {
    const runtime = numbered();
    const answer = await json(await harness(runtime).post("/v1/completions", { ...body, prompt: ["x", "y"], n: 2, best_of: 3 }));
    const choices = answer["choices"] as readonly { readonly index: number; readonly text: string; readonly logprobs: unknown }[];
    expect(choices.map(({ index, text, logprobs }) => [index, text, logprobs])).toEqual([[0, "c", null], [1, "b", null], [2, "f", null], [3, "e", null]]);
    expect(answer["usage"]).toMatchObject({ completion_tokens: 6 });
    expect(runtime.sequences.map(({ request }) => request.sampling.logprobs)).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test("echoes each prompt as it was written, token ids as their text", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("!") }));
    const texts = async (fields: object) => ((await json(await post("/v1/completions", { ...body, echo: true, ...fields })))["choices"] as { text: string }[]).map(({ text }) => text);
    expect(await texts({ prompt: ["hé", "yo"], n: 2 })).toEqual(["hé!", "hé!", "yo!", "yo!"]);
    expect(await texts({ prompt: [104, 105] })).toEqual(["hi!"]);
    expect(await texts({ prompt: "abcdef", truncate_prompt_tokens: 2 })).toEqual(["ef!"]);
  });

  test("echoes first in a stream", async () => {
    const { post } = harness(new FakeRuntime({ script: saying("one two") }));
    const events = dataOf(await (await post("/v1/completions", { ...body, echo: true, stream: true })).text()).slice(0, -1) as { choices: { text: string }[] }[];
    expect(events[0]!.choices[0]!.text).toBe("hi");
    expect(events.map(({ choices }) => choices[0]!.text).join("")).toBe("hione two");
  });

  test("hands priority and timeout on", async () => {
    const { post, runtime } = harness();
    await post("/v1/completions", { ...body, priority: -3, timeout: 1.5 });
    await post("/v1/completions", body);
    expect(runtime.sequences.map(({ request }) => [request.priority, request.timeoutMs])).toEqual([[-3, 1500], [0, null]]);
  });
});
