import { describe, expect, test } from "bun:test";
import { AdapterError } from "../../src/core/errors.ts";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { dataOf, harness, type LogLine, serverOptions, startServer } from "./harness.ts";

const TIMING = { queueMs: 1.5, adapterMs: 20, prefillMs: 3.25, decodeMs: 100.0004 };
const TIMELINE = { queue_ms: 1.5, adapter_ms: 20, prefill_ms: 3.25, decode_ms: 100 };

const timed = () =>
  new FakeRuntime({
    script: (sequence) => {
      sequence.timing = TIMING;
      saying("One day.")(sequence);
    },
  });

const linesOf = (log: object) => (log as { readonly lines: readonly LogLine[] }).lines;
const body = { model: "sql", prompt: "a secret prompt" };

describe("the timeline of a request", () => {
  test("is in the usage of a whole answer that asks, one for each choice", async () => {
    const { post } = harness(timed());
    const usage = async (extra: object) => ((await (await post("/v1/completions", { ...body, ...extra })).json()) as { usage: object }).usage;
    expect(await usage({})).not.toHaveProperty("timeline");
    expect(await usage({ return_timeline: true })).toMatchObject({ completion_tokens: 8, timeline: [TIMELINE] });
    expect(await usage({ return_timeline: true, n: 2, temperature: 1 })).toMatchObject({ timeline: [TIMELINE, TIMELINE] });
  });

  test("is in the last chunk of a stream, in chat as in completions", async () => {
    const { post } = harness(timed());
    const stream = { stream: true, stream_options: { include_usage: true }, return_timeline: true };
    for (const [path, sent] of [
      ["/v1/completions", { ...body, ...stream }],
      ["/v1/chat/completions", { model: "sql", messages: [{ role: "user", content: "hi" }], ...stream }],
    ] as const) {
      const chunks = dataOf(await (await post(path, sent)).text()) as { usage: object }[];
      expect(chunks.at(-2)).toMatchObject({ choices: [], usage: { timeline: [TIMELINE] } });
    }
  });

  test("needs a stream's usage, and says so", async () => {
    const { post } = harness(timed());
    const response = await post("/v1/completions", { ...body, stream: true, return_timeline: true });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { param: "return_timeline", message: expect.stringContaining("include_usage") } });
  });

  test("is a Server-Timing header of every whole answer", async () => {
    const { post } = harness(timed());
    const { headers } = await post("/v1/completions", body);
    expect(headers.get("server-timing")).toBe("queue;dur=1.5, adapter;dur=20, prefill;dur=3.25, decode;dur=100");
  });
});

describe("the log", () => {
  test("has one line for each answer, whole or streamed, with the client's request id and nothing of what was said", async () => {
    const { post, deps } = harness(timed());
    const headers = { "x-request-id": "client-7" };
    expect((await post("/v1/completions", body, { headers })).headers.get("x-request-id")).toBe("client-7");
    await (await post("/v1/completions", { ...body, stream: true }, { headers })).text();
    const lines = linesOf(deps.log);
    const common = { requestId: "client-7", route: "/v1/completions", model: "sql", adapter: "sql", error: null };
    expect(lines.map(({ message }) => message)).toEqual(["answered", "answered"]);
    for (const [i, stream] of [false, true].entries()) {
      expect(lines[i]!.fields).toMatchObject({ ...common, stream, promptTokens: 16, completionTokens: 8, finish: ["stop"], timeline: [TIMELINE] });
    }
    expect(JSON.stringify(lines)).not.toMatch(/secret|One day/);
  });

  test("has the same id in header and line where the client sent none", async () => {
    const { post, deps } = harness(timed());
    const id = (await post("/v1/completions", body)).headers.get("x-request-id");
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    expect(linesOf(deps.log)[0]!.fields).toMatchObject({ requestId: id });
  });

  test("says why an answer failed", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.end("error", new AdapterError("adapter_invalid", "no")) });
    const { post, deps } = harness(runtime);
    expect((await post("/v1/completions", body)).status).toBe(400);
    expect(linesOf(deps.log)).toMatchObject([{ fields: { error: "adapter_invalid", finish: ["error"] }, message: "not answered" }]);
  });

  test("says that a client left", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("One ") });
    const options = serverOptions(runtime);
    await using server = startServer(runtime, options);
    const abort = new AbortController();
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true }),
      signal: abort.signal,
    });
    await response.body!.getReader().read();
    abort.abort();
    await until(() => linesOf(options.log).length === 1);
    expect(linesOf(options.log)[0]).toMatchObject({ fields: { error: "client_left", completionTokens: 4 }, message: "not answered" });
  });

  test("has a line for what was refused, with the id that the client got", async () => {
    const runtime = new FakeRuntime();
    const options = serverOptions(runtime);
    await using server = startServer(runtime, options);
    const response = await fetch(`${server.url}/v2/completions?key=hidden`);
    expect(linesOf(options.log)).toMatchObject([
      { fields: { requestId: response.headers.get("x-request-id"), method: "GET", path: "/v2/completions", status: 404 }, message: "refused" },
    ]);
    expect(JSON.stringify(linesOf(options.log))).not.toContain("hidden");
    await fetch(`${server.url}/v1/models`);
    expect(linesOf(options.log).length).toBe(1);
  });
});
