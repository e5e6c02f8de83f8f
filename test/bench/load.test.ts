import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { drive } from "../../src/bench/load/drive.ts";
import { eventLines } from "../../src/bench/load/event-lines.ts";
import { openAiTarget } from "../../src/bench/load/openai-target.ts";
import type { Target } from "../../src/bench/load/target.ts";
import type { TraceRow } from "../../src/bench/workload/trace.ts";

const row = (more: Partial<TraceRow> = {}): TraceRow => ({ atMs: 0, prompt: [1, 2], outputTokens: 2, adapter: null, ...more });
const signal = new AbortController().signal;

/** Answers two tokens each; remembers how many it had at once. */
function standIn(): Target & { most: number; order: string[] } {
  let now = 0;
  const target = {
    model: "m", adapters: ["a"], most: 0, order: [] as string[],
    async send({ prompt }: { prompt: unknown }, onTokens: (count: number) => void) {
      target.order.push(String(prompt));
      target.most = Math.max(target.most, ++now);
      await Promise.resolve();
      onTokens(1);
      onTokens(1);
      now--;
      if (prompt === "bad") throw new Error("500: no");
      return { promptTokens: 7, outputTokens: 2, text: "xy" };
    },
    counters: async () => null,
  };
  return target;
}

describe("driving a load", () => {
  test("an open loop sends nothing before it is due, and writes down how late", async () => {
    const records = await drive([row(), row({ atMs: 15 }), row({ atMs: 30, prompt: "bad" })], standIn(), { concurrency: null, signal });
    expect(records.map(({ dueMs }) => dueMs)).toEqual([0, 15, 30]);
    expect(records.every(({ dueMs, sentMs }) => sentMs >= dueMs!)).toBe(true);
    expect(records.map(({ error, promptTokens, outputTokens }) => [error, promptTokens, outputTokens])).toEqual([[null, 7, 2], [null, 7, 2], ["500: no", 0, 2]]);
  });

  test("a closed loop never has more under way than it may, and keeps the order", async () => {
    const target = standIn();
    const prompts = Array.from({ length: 20 }, (_, i) => `p${i}`);
    const told: number[] = [];
    const records = await drive(prompts.map((prompt) => row({ prompt })), target, { concurrency: 3, signal, onProgress: ({ ended }) => told.push(ended) });
    expect(target.most).toBe(3);
    expect(target.order).toEqual(prompts);
    expect(records.map(({ index, dueMs }) => [index, dueMs])).toEqual(prompts.map((_, i) => [i, null]));
    expect(told.at(-1)).toBe(20);
  });

  test("ends early when it is told to, with what it has", async () => {
    const stop = new AbortController();
    const trace = [row(), row({ atMs: 3_600_000 })];
    const records = await drive(trace, standIn(), { concurrency: null, signal: stop.signal, onProgress: () => stop.abort() });
    expect(records).toHaveLength(1);
  });
});

describe("event lines", () => {
  test("are whole however the bytes are cut", async () => {
    const bytes = new TextEncoder().encode(': ping\r\n\r\ndata: {"a":"é"}\r\n\r\nevent: x\ndata:2\n\ndata: [DONE]\n\n');
    for (let size = 1; size <= bytes.length; size++) {
      const cut = async function* () {
        for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
      };
      expect(await Array.fromAsync(eventLines(cut()))).toEqual(['{"a":"é"}', "2", "[DONE]"]);
    }
  });
});

describe("a server with OpenAI's routes", () => {
  const bodies: Record<string, unknown>[] = [];
  let server: ReturnType<typeof Bun.serve>;
  let url = "";

  beforeAll(() => {
    server = Bun.serve({
      port: 0,
      async fetch(request) {
        const { pathname } = new URL(request.url);
        if (pathname === "/v1/models") return Response.json({ data: [{ id: "base", parent: null }, { id: "sql", parent: "base" }] });
        if (!pathname.endsWith("completions")) return new Response("no", { status: 404 });
        const body = (await request.json()) as { model: string };
        bodies.push({ ...body, key: request.headers.get("authorization") });
        if (body.model === "broken") return new Response('data: {"choices":[{"text":"a"}]}\n\n');
        if (body.model === "failing") return new Response('data: {"choices":[{"text":"a"}]}\n\ndata: {"error":{"message":"no memory"}}\n\n');
        if (body.model === "full") return Response.json({ error: { message: "queue is full" } }, { status: 429 });
        const chunks = pathname.endsWith("chat/completions")
          ? [{ choices: [{ delta: { role: "assistant", content: "" } }] }, { choices: [{ delta: { content: "hé" } }] }, { choices: [{ delta: {}, finish_reason: "length" }] }]
          : [{ choices: [{ text: "h" }] }, { choices: [{ text: "é", finish_reason: "length" }] }, { choices: [], usage: { prompt_tokens: 11, completion_tokens: 3 } }];
        return new Response(`${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join("")}data: [DONE]\n\n`);
      },
    });
    url = `http://127.0.0.1:${server.port}`;
  });
  afterAll(() => server.stop(true));

  const open = (more: Partial<Parameters<typeof openAiTarget>[0]> = {}) => openAiTarget({ baseUrl: `${url}/v1/`, apiKeys: ["k"], model: null, adapters: null, endpoint: "completions", ...more });

  test("is asked for its models, and for answers of full length", async () => {
    const target = await open();
    expect([target.model, target.adapters]).toEqual(["base", ["sql"]]);
    let pieces = 0;
    expect(await target.send({ prompt: [5, 6], outputTokens: 3, adapter: 0 }, () => pieces++, signal)).toEqual({ promptTokens: 11, outputTokens: 3, text: "hé" });
    expect(pieces).toBe(2);
    expect(bodies.at(-1)).toMatchObject({ model: "sql", prompt: [5, 6], max_tokens: 3, temperature: 0, ignore_eos: true, stream: true, stream_options: { include_usage: true }, key: "Bearer k" });
    expect(await target.counters()).toBeNull();
  });

  test("is asked for Lorikeet's counters, and what leaves host memory is no swap", async () => {
    const text = ["# HELP x", "lorikeet_steps_total 9", 'lorikeet_adapter_evictions_total{tier="device"} 3', 'lorikeet_adapter_evictions_total{tier="host"} 50',
      "lorikeet_adapter_slots_used 2", 'lorikeet_adapter_loads_total{model_name="a b"} 4', "lorikeet_step_compute_seconds_total 0.25", "vllm:num_preemptions_total 1"].join("\n");
    using metered = Bun.serve({ port: 0, fetch: () => new Response(text) });
    const target = await open({ baseUrl: `http://127.0.0.1:${metered.port}`, model: "m", adapters: [] });
    expect(await target.counters()).toEqual({ adapterLoads: 4, adapterEvictions: 3, slotsUsed: 2, steps: 9, preemptions: 1, computeMs: 250 });
  });

  test("counts chunks where it tells no usage, and not the one with the role", async () => {
    const target = await open({ endpoint: "chat" });
    expect(await target.send({ prompt: "hi", outputTokens: 3, adapter: null }, () => undefined, signal)).toEqual({ promptTokens: null, outputTokens: 1, text: "hé" });
    expect(bodies.at(-1)).toMatchObject({ model: "base", messages: [{ role: "user", content: "hi" }] });
    expect(target.send({ prompt: [1], outputTokens: 3, adapter: null }, () => undefined, signal)).rejects.toThrow("--endpoint completions");
  });

  test("has as many requests at once as are sent", async () => {
    const most = 300;
    const all = Promise.withResolvers<void>();
    let waiting = 0;
    using holding = Bun.serve({
      port: 0,
      async fetch() {
        if (++waiting === most) all.resolve();
        await all.promise;
        return new Response('data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\n');
      },
    });
    const target = await open({ baseUrl: `http://127.0.0.1:${holding.port}`, model: "m", adapters: [] });
    const records = await drive(Array.from({ length: most }, () => row()), target, { concurrency: null, signal });
    expect(records.filter(({ error, text }) => error === null && text === "a")).toHaveLength(most);
  });

  test("is left when the run is ended", async () => {
    const gone = Promise.withResolvers<void>();
    const stop = new AbortController();
    using silent = Bun.serve({
      port: 0,
      fetch(request) {
        request.signal.addEventListener("abort", () => gone.resolve());
        stop.abort();
        return new Promise<Response>(() => undefined);
      },
    });
    const target = await open({ baseUrl: `http://127.0.0.1:${silent.port}`, model: "m", adapters: [] });
    const [record] = await drive([row()], target, { concurrency: 1, signal: stop.signal });
    expect(record!.error).toContain("abort");
    await gone.promise;
  });

  test.each([["broken", "the answer broke off"], ["failing", "no memory"], ["full", "429: queue is full"]])("%s: an answer that is none is a failure: %s", async (model, message) => {
    const target = await open({ model, adapters: [] });
    expect(target.send({ prompt: "x", outputTokens: 3, adapter: null }, () => undefined, signal)).rejects.toThrow(message);
  });

  test("that does not answer, or is something else, is named", async () => {
    expect(open({ baseUrl: "http://127.0.0.1:1" })).rejects.toThrow("http://127.0.0.1:1/v1/models does not answer; give the address of an OpenAI-compatible server with --base-url");
    expect(open({ baseUrl: "localhost:8000" })).rejects.toThrow('--base-url must be an address with http:// or https://, got "localhost:8000"');
    expect(open({ baseUrl: `${url}/other` })).rejects.toThrow("/other/v1/models answered 404: no");
  });
});
