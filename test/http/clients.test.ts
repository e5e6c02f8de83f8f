/** Clients with keys of their own, over a real runtime. */
import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { createAccess } from "../../src/http/access.ts";
import { type HttpServer, listen } from "../../src/http/server.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { openBench } from "../helpers/runtime.ts";
import { thrownBy } from "../helpers/thrown.ts";
import { harness, serverOptions } from "./harness.ts";

const clients = [
  { name: "team-a", key: "sk-a" },
  { name: "team-b", key: "sk-b" },
];
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

describe("the tenant of a request", () => {
  const access = createAccess(["sk-plain", ...clients, "sk-other"], ["sk-admin", "sk-b"]);
  test.each([
    ["sk-a", "team-a"],
    ["sk-plain", "key-1"],
    ["sk-other", "key-4"],
    ["sk-admin", "admin"],
    ["sk-b", "admin"],
    ["sk-unknown", ""],
  ])("of key %s is %j", (key, tenant) => {
    expect(access.tenantOf(new Headers(bearer(key)))).toBe(tenant);
  });

  test("reaches the runtime", async () => {
    const runtime = new FakeRuntime();
    const { post } = harness(runtime, { apiKeys: clients });
    for (const { key } of clients) expect((await post("/v1/completions", { model: "demo", prompt: "hi", n: 2 }, { headers: bearer(key) })).status).toBe(200);
    expect(runtime.sequences.map(({ request }) => request.tenant)).toEqual(["team-a", "team-a", "team-b", "team-b"]);
  });

  test("is nobody's where no key is asked for", async () => {
    const runtime = new FakeRuntime();
    expect((await harness(runtime).post("/v1/completions", { model: "demo", prompt: "hi" })).status).toBe(200);
    expect(runtime.sequences[0]!.request.tenant).toBe("");
  });
});

test("one key under two names is refused at the start", () => {
  const thrown = thrownBy(() => createAccess([...clients, { name: "team-c", key: "sk-a" }]));
  expect(thrown).toBeInstanceOf(ConfigError);
  expect(thrown).toMatchObject({ message: "clients: team-a and team-c have one API key; give each its own", field: "clients" });
  expect(() => createAccess(["sk-a", "sk-a"])).not.toThrow();
});

test("a client beyond its quota gets 429 with the time to wait, its neighbour an answer", async () => {
  const quota = { maxRequests: null, requestsPerMinute: 2, tokensPerMinute: null };
  const { runtime } = openBench({ options: { tenants: [{ name: "team-a", weight: 1, quota }] } });
  const server: HttpServer = listen({ ...serverOptions(new FakeRuntime(), { apiKeys: clients, baseNames: ["fake"] }), runtime });
  const ask = (key: string, n = 1) =>
    fetch(`http://127.0.0.1:${server.port}/v1/completions`, {
      method: "POST",
      headers: { ...bearer(key), "content-type": "application/json" },
      body: JSON.stringify({ model: "fake", prompt: [1, 2, 3], max_tokens: 4, n, ignore_eos: true }),
    });
  try {
    // All choices of a request are let in, or none of them, and then none is counted.
    expect((await ask("sk-a", 3)).status).toBe(429);
    expect((await ask("sk-a", 2)).status).toBe(200);
    const refused = await ask("sk-a");
    expect(refused.status).toBe(429);
    const wait = Number(refused.headers.get("retry-after"));
    expect(wait).toBeGreaterThan(25);
    expect(wait).toBeLessThanOrEqual(30);
    expect(await refused.json()).toEqual({
      error: {
        message: `the API key team-a has used up its quota of 2 requests per minute; try again in ${wait} s`,
        type: "rate_limit_error",
        param: null,
        code: "rate_limit_exceeded",
      },
    });
    expect((await ask("sk-b", 3)).status).toBe(200);
  } finally {
    await runtime.close();
    await server.stop();
  }
});
