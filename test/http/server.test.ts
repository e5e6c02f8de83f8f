import { describe, expect, test } from "bun:test";
import { listen } from "../../src/http/server.ts";
import { FakeRuntime, type FakeSequence } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { serverOptions, startServer } from "./harness.ts";
import { RawClient } from "./raw-client.ts";

const body = { model: "demo", prompt: "hi" };
const post = (url: string, sent: object) =>
  fetch(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(sent) });

describe("a stopping server", () => {
  test("refuses new work with 503, says so on /ready, and lets answers end", async () => {
    const runtime = new FakeRuntime({ script: () => undefined });
    await using server = startServer(runtime, { headersAfterMs: 1 });
    const running = await post(server.url, { ...body, stream: true });
    const waiting = post(server.url, body);
    await until(() => runtime.live.length === 2);
    server.server.drain();
    const refused = await post(server.url, body);
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    const ready = await fetch(`${server.url}/ready`);
    expect([ready.status, ready.headers.get("retry-after")]).toEqual([503, "5"]);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);

    const stopped = server.server.stop(5_000);
    const finish = (sequence: FakeSequence) => {
      sequence.say("Done.");
      sequence.end("stop");
    };
    runtime.live.forEach(finish);
    expect(await running.text()).toEndWith("data: [DONE]\n\n");
    expect((await waiting).status).toBe(200);
    await stopped;
    expect(await post(server.url, body).catch(() => "refused")).toBe("refused");
  });

  test("closes what is left after its grace", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("One ") });
    await using server = startServer(runtime);
    const client = await RawClient.connect(server.server.port);
    client.post("/v1/completions", { ...body, stream: true });
    await client.until((received) => received.includes("One "));
    await server.server.stop(1);
    await client.closed();
    await until(() => runtime.live.length === 0);
    expect(client.received).not.toContain("[DONE]");
  });
});

describe("the address", () => {
  test("that is in use is an error with the way out", async () => {
    await using server = startServer();
    const { port } = server.server;
    expect(() => listen(serverOptions(new FakeRuntime(), { port }))).toThrow(
      `127.0.0.1:${port} is in use; choose another with --port`,
    );
  });

  test("that is none of this machine's is an error", () => {
    const options = serverOptions(new FakeRuntime(), { host: "192.0.2.1", allowNoKey: true });
    expect(() => listen(options)).toThrow("192.0.2.1:0 cannot be listened on");
  });
});

describe("a connection", () => {
  test("serves one request after another, generations and others mixed", async () => {
    await using server = startServer();
    const client = await RawClient.connect(server.server.port);
    client.post("/v1/completions", body);
    await client.until((received) => received.includes('"usage"'));
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await client.until((received) => received.includes('{"status":"ok"}'));
    client.post("/v1/completions", { ...body, stream: true });
    expect(await client.until((received) => received.includes("[DONE]"))).not.toContain('"error"');
    client.end();
  });

  test("with smuggled lengths is refused", async () => {
    await using server = startServer();
    for (const extra of ["Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length: 4\r\nContent-Length: 5"]) {
      const client = await RawClient.connect(server.server.port);
      client.send(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${extra}\r\n\r\n0\r\n\r\n`);
      expect(await client.until((received) => received.includes("\r\n"))).toStartWith("HTTP/1.1 400");
      client.end();
    }
  });

  test.each([
    ["announced", "Content-Length: 99999999"],
    ["in chunks", "Transfer-Encoding: chunked"],
  ])("with a body far above the limit, %s, gets an error that says so", async (_, header) => {
    await using server = startServer();
    const client = await RawClient.connect(server.server.port);
    client.send(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${header}\r\n\r\n`);
    const piece = "a".repeat(1 << 20);
    for (let sent = 0; sent < 12; sent++) await client.write(header.startsWith("Transfer") ? `100000\r\n${piece}\r\n` : piece);
    const received = await client.until((text) => text.includes('"payload_too_large"'));
    expect(received).toStartWith("HTTP/1.1 413");
    expect(JSON.parse(received.slice(received.indexOf("{"), received.lastIndexOf("}") + 1))).toEqual({
      error: {
        message: "the body must have at most 2097152 bytes",
        type: "invalid_request_error",
        param: null,
        code: "payload_too_large",
      },
    });
    client.end();
  });
});
