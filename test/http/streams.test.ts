import { describe, expect, test } from "bun:test";
import { AdapterError, NativeError } from "../../src/core/errors.ts";
import { LiveStreams } from "../../src/http/live-streams.ts";
import { FakeRuntime, type Script } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { dataOf, harness, ManualClock, startServer } from "./harness.ts";
import { RawClient } from "./raw-client.ts";

const body = { model: "demo", prompt: "hi", stream: true };
const silent: Script = () => undefined;

describe("a failure", () => {
  test("before the first byte has a status of its own", async () => {
    const script: Script = (sequence) =>
      sequence.end("error", new AdapterError("adapter_invalid", "adapter sql has a NaN", { field: "model" }));
    const response = await harness(new FakeRuntime({ script })).post("/v1/completions", body);
    expect([response.status, await response.json()]).toMatchObject([400, { error: { code: "adapter_invalid" } }]);
  });

  test("after the first byte is an error event, and there is no [DONE]", async () => {
    const script: Script = (sequence) => {
      sequence.say("One ");
      setTimeout(() => sequence.end("error", new NativeError("non_finite_logits", "the output was not a number")), 1);
    };
    const response = await harness(new FakeRuntime({ script })).post("/v1/completions", body);
    expect(response.status).toBe(200);
    expect(dataOf(await response.text())).toEqual([
      expect.objectContaining({ choices: [expect.objectContaining({ text: "One " })] }),
      { error: { message: "the output was not a number", type: "server_error", param: null, code: "non_finite_logits" } },
    ]);
  });

  test("of one choice ends the others", async () => {
    const runtime = new FakeRuntime();
    runtime.script = (sequence) => {
      if (runtime.sequences.length === 2) sequence.end("error", new NativeError("non_finite_logits", "not a number"));
    };
    const response = await harness(runtime).post("/v1/completions", { ...body, n: 3 });
    expect(response.status).toBe(500);
    expect(runtime.sequences.map(({ isOver }) => isOver)).toEqual([true, true, true]);
  });

  test.each([
    ["timeout", 504, "request_timeout"],
    ["shutdown", 503, "shutting_down"],
  ] as const)("of kind %s is an error for whole answers too, never a short answer", async (reason, status, code) => {
    const script: Script = (sequence) => {
      sequence.say("One ");
      sequence.end(reason);
    };
    const response = await harness(new FakeRuntime({ script })).post("/v1/completions", { ...body, stream: false });
    expect([response.status, await response.json()]).toMatchObject([status, { error: { code } }]);
  });

  test("of the backend turns /health and /ready to 503", async () => {
    const script: Script = (sequence) => sequence.end("error", new NativeError("backend_failed", "worker 2 died at 0x1f"));
    const { post, fetch } = harness(new FakeRuntime({ script }));
    expect((await fetch("/health")).status).toBe(200);
    const response = await post("/v1/completions", body);
    expect([response.status, await response.text()]).toEqual([500, expect.not.stringContaining("0x1f")]);
    expect([(await fetch("/health")).status, (await fetch("/ready")).status]).toEqual([503, 503]);
  });
});

describe("the idle timeout", () => {
  test.each([
    ["a whole answer", false, "stop"],
    ["a stream", true, "stop"],
    ["a whole answer that fails", false, "timeout"],
    ["a stream that fails", true, "timeout"],
  ] as const)("is lifted for %s, and put back once at its end", async (_, stream, reason) => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("One ") });
    const { deps, post } = harness(runtime);
    let lifted = 0;
    Object.assign(deps, {
      keepOpen: () => {
        lifted++;
        return () => void lifted--;
      },
    });
    const answer = post("/v1/completions", { ...body, stream }).then((response) => response.text());
    await until(() => runtime.live.length === 1);
    expect(lifted).toBe(1);
    runtime.live[0]!.end(reason);
    await answer;
    expect(lifted).toBe(0);
  });
});

describe("headers", () => {
  test("leave after a while when nothing has come yet", async () => {
    const runtime = new FakeRuntime({ script: silent });
    const response = await harness(runtime, { headersAfterMs: 1 }).post("/v1/completions", body);
    expect(response.status).toBe(200);
    const reader = response.body!.getReader();
    // A first byte, without which the headers would stay behind on a socket.
    expect(new TextDecoder().decode((await reader.read()).value as Uint8Array)).toBe(": ping\n\n");
    await reader.cancel();
  });
});

describe("a client that leaves", () => {
  test.each([true, false])("ends every sequence at once (stream %p)", async (stream) => {
    const runtime = new FakeRuntime({ script: silent });
    await using server = startServer(runtime, { headersAfterMs: 1 });
    const client = await RawClient.connect(server.server.port);
    client.post("/v1/completions", { ...body, stream, n: 2 });
    await until(() => runtime.live.length === 2);
    client.end();
    await until(() => runtime.sequences.every(({ isCancelled }) => isCancelled));
    expect(runtime.live).toEqual([]);
  });

  test("by cancelling the body ends the sequence, and the stream is no longer watched", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("One ") });
    const { post, deps } = harness(runtime);
    const response = await post("/v1/completions", body);
    expect(deps.live.size).toBe(1);
    const reader = response.body!.getReader();
    await reader.read();
    await reader.cancel();
    expect(runtime.sequences[0]!.isCancelled).toBe(true);
    expect(deps.live.size).toBe(0);
  });

  test("before its request was read starts nothing that goes on", async () => {
    const runtime = new FakeRuntime({ script: silent });
    const gone = AbortSignal.abort();
    await harness(runtime).post("/v1/completions", body, { signal: gone });
    expect(runtime.live).toEqual([]);
  });
});

describe("a slow reader", () => {
  test("is read for only as fast as it reads", async () => {
    const runtime = new FakeRuntime({ script: silent });
    const { post } = harness(runtime, { headersAfterMs: 1 });
    const response = await post("/v1/completions", body);
    const sequence = runtime.sequences[0]!;
    for (let i = 0; i < 100; i++) sequence.say("x");
    const reader = response.body!.getReader();
    await reader.read();
    const read = async () => dataOf(new TextDecoder().decode((await reader.read()).value as Uint8Array));
    expect(await read()).toMatchObject([{ choices: [{ text: "x" }] }]);
    // What came meanwhile waits as one merged piece, not as a hundred chunks.
    expect(await read()).toMatchObject([{ choices: [{ text: "x".repeat(99) }] }]);
    await reader.cancel();
  });

  test("that stopped is given up, and its connection closed", async () => {
    const clock = new ManualClock();
    const { deps, post, runtime } = harness(new FakeRuntime({ script: (sequence) => sequence.say("One ") }), { clock });
    const response = await post("/v1/completions", body);
    const reader = response.body!.getReader();
    await reader.read();
    runtime.sequences[0]!.say("two ");
    // Nobody reads from here on.
    clock.ms += 29_999;
    deps.live.tick();
    expect(runtime.live.length).toBe(1);
    clock.ms += 1;
    deps.live.tick();
    expect(runtime.live).toEqual([]);
    expect(deps.live.size).toBe(0);
    const failure: unknown = await reader.read().catch((thrown: unknown) => thrown);
    expect(failure).toMatchObject({ message: "the reader stopped reading" });
  });

  test("on a socket costs no more than the socket's own buffers", async () => {
    const talk: Script = (sequence) => {
      const next = (): void => {
        if (sequence.isOver) return;
        sequence.say(`${"x".repeat(2_000)} `);
        sequence.tokens.length = 0;
        setImmediate(next);
      };
      next();
    };
    const runtime = new FakeRuntime({ script: talk, maxContext: 1e9 });
    await using server = startServer(runtime);
    const client = await RawClient.connect(server.server.port);
    client.post("/v1/completions", body);
    await client.until((received) => received.includes("data:"));
    client.stopReading();
    // The unread rest passes the token stream's cap, and the sequence ends.
    await until(() => runtime.live.length === 0, 20_000);
    expect(runtime.sequences[0]!.isOver).toBe(true);
    client.end();
  });
});

describe("a quiet stream", () => {
  test("gets a comment after five seconds of silence, and only then", async () => {
    const clock = new ManualClock();
    const runtime = new FakeRuntime({ script: silent });
    const { deps, post } = harness(runtime, { clock, headersAfterMs: 1 });
    const response = await post("/v1/completions", body);
    const reader = response.body!.getReader();
    await reader.read();
    const first = reader.read();
    clock.ms = 4_999;
    deps.live.tick();
    clock.ms = 5_000;
    deps.live.tick();
    expect(new TextDecoder().decode((await first).value as Uint8Array)).toBe(": ping\n\n");
    const next = reader.read();
    runtime.sequences[0]!.say("One ");
    runtime.sequences[0]!.end("stop");
    expect(dataOf(new TextDecoder().decode((await next).value as Uint8Array))).toMatchObject([{ choices: [{ text: "One " }] }]);
    await reader.cancel();
  });

  test("is given up after thirty seconds in which its comments were not read", () => {
    const clock = new ManualClock();
    const live = new LiveStreams(clock);
    const seen: string[] = [];
    let isHungry = true;
    live.add({ isHungry: () => isHungry, ping: () => seen.push(`ping ${clock.ms}`), giveUp: () => seen.push(`give up ${clock.ms}`) });
    for (; clock.ms < 12_000; clock.ms += 1_000) live.tick();
    isHungry = false;
    for (; clock.ms < 60_000; clock.ms += 1_000) live.tick();
    expect(seen).toEqual(["ping 5000", "ping 10000", "give up 41000"]);
    expect(live.size).toBe(0);
  });
});
