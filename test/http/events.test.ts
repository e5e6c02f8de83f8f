import { describe, expect, test } from "bun:test";
import { RecentValues } from "../../src/http/metrics/recent.ts";
import type { LiveState } from "../../src/page/live-state.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { harness, ManualClock, startServer } from "./harness.ts";

const KEYS = { apiKeys: ["user"], adminKeys: ["admin"] };
const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
const loaded = { actor: "adapterLoader", type: "adapter.loaded", adapter: "sql", elapsedMs: 3 } as const;

/** Reads until `count` events are there. */
async function read(response: Response, count: number) {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (text.split("\nevent: ").length + Number(text.startsWith("event: ")) - 1 < count) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
  }
  return { text, reader };
}

describe("the event stream", () => {
  test("is for whoever has the admin key", async () => {
    const { fetch } = harness(new FakeRuntime(), KEYS);
    expect((await fetch("/v1/events")).status).toBe(401);
    expect((await fetch("/v1/events", bearer("user"))).status).toBe(403);
    expect((await harness().fetch("/v1/events")).status).toBe(403);
  });

  test("tells each transition as it happens, with a number, a time and its names", async () => {
    const runtime = new FakeRuntime();
    const { fetch } = harness(runtime, KEYS);
    const response = await fetch("/v1/events", bearer("admin"));
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    runtime.tell(loaded);
    runtime.tell({ actor: "requestScheduler", type: "actor.entered", state: "waiting" });
    const { text, reader } = await read(response, 2);
    const blocks = text.split("\n\n").filter((block) => block.includes("data: "));
    expect(blocks.map((block) => block.split("\n").slice(0, 2))).toEqual([
      ["id: 1", "event: adapter.loaded"],
      ["id: 2", "event: actor.entered"],
    ]);
    expect(JSON.parse(blocks[0]!.split("data: ")[1]!)).toEqual({ id: 1, time: expect.stringMatching(/^\d{4}-.+Z$/), ...loaded });
    await reader.cancel();
    expect(runtime.listeners.size).toBe(1);
  });

  test("drops the oldest for a reader that lags, and says how many", async () => {
    const runtime = new FakeRuntime();
    const { fetch } = harness(runtime, KEYS);
    const response = await fetch("/v1/events", bearer("admin"));
    for (let i = 0; i < 1_500; i++) runtime.tell(loaded);
    const { text, reader } = await read(response, 1_000);
    expect(text).toContain('event: events.dropped\ndata: {"count":501}');
    expect(text).toContain("id: 1500\n");
    await reader.cancel();
  });

  test("has room for 32 listeners, and for another when one has gone", async () => {
    const { fetch } = harness(new FakeRuntime(), KEYS);
    const open = await Promise.all(Array.from({ length: 32 }, () => fetch("/v1/events", bearer("admin"))));
    expect((await fetch("/v1/events", bearer("admin"))).status).toBe(429);
    await open[7]!.body!.cancel();
    expect((await fetch("/v1/events", bearer("admin"))).status).toBe(200);
  });

  test("ends when the server stops, and holds it up no longer than that", async () => {
    const runtime = new FakeRuntime();
    await using server = startServer(runtime, KEYS);
    const response = await fetch(`${server.url}/v1/events`, bearer("admin"));
    const text = response.text();
    await until(() => runtime.listeners.size === 2);
    await server.server.stop(60_000);
    expect(await text).toStartWith(": listening");
    expect(runtime.listeners.size).toBe(1);
  });
});

describe("the live state", () => {
  test("tells what the page shows, and no path", async () => {
    const runtime = new FakeRuntime({ states: { sql: "device" }, ranks: { sql: 16 } });
    const { fetch, post } = harness(runtime, { adminKeys: ["admin"] });
    await post("/v1/completions", { model: "sql", prompt: "hi" });
    const text = await (await fetch("/v1/live")).text();
    expect(text).not.toContain("/adapters/");
    const state = JSON.parse(text) as LiveState;
    expect(state.server).toEqual({ version: "9.9.9", model: "demo", backend: "no model", maxContext: 512, hasChat: false, hasAdmin: true });
    expect(state.requests).toEqual({ running: 0, waiting: 0, longestWaitMs: 0, ended: 1, refused: 0 });
    expect(state.firstToken).toEqual({ p50: expect.any(Number), p95: expect.any(Number) });
    expect(state.memory).toEqual(runtime.memory());
    expect(state.adapters.map(({ name, state: where, rank, requests }) => [name, where, rank, requests])).toEqual([
      ["sql", "device", 16, 1],
      ["translate-fr", "registered", null, 0],
    ]);
  });

  test("is bounded however many adapters there are", async () => {
    const { fetch } = harness(new FakeRuntime({ adapters: Array.from({ length: 1_000 }, (_, i) => `a${i}`) }));
    const state = (await (await fetch("/v1/live")).json()) as LiveState;
    expect([state.adapters.length, state.numAdapters]).toEqual([200, 1_000]);
  });

  test("needs a key where there is one", async () => {
    const { fetch } = harness(new FakeRuntime(), KEYS);
    expect((await fetch("/v1/live")).status).toBe(401);
    expect((await fetch("/v1/live", bearer("user"))).status).toBe(200);
  });
});

describe("the latest observations", () => {
  test("have quantiles of their window, and of as many as are kept", () => {
    const clock = new ManualClock();
    const values = new RecentValues(100);
    expect(values.quantiles(0, 10)).toBeNull();
    for (let i = 1; i <= 200; i++) values.observe(i, (clock.ms = i));
    expect(values.quantiles(200, 1_000)).toEqual({ count: 100, p50: 151, p95: 196 });
    expect(values.quantiles(200, 9)).toEqual({ count: 10, p50: 196, p95: 200 });
    expect(values.quantiles(1_000, 9)).toBeNull();
  });
});
