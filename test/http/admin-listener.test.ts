/** An address of its own for whoever administers: the routes for that are there, and nowhere else. */
import { describe, expect, test } from "bun:test";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { createPublicApp } from "../../src/http/app.ts";
import { listen } from "../../src/http/server.ts";
import { startServer as startWhole } from "../../src/serve.ts";
import { DEMO } from "../helpers/demo-server.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { harness, serverOptions, startServer } from "./harness.ts";

const KEYS = { apiKeys: ["sk-api"], adminKeys: ["sk-admin"] };
const as = (key: string) => ({ authorization: `Bearer ${key}`, "content-type": "application/json" });
const CONTROL = [
  ["POST", "/v1/load_lora_adapter", { lora_name: "new", lora_path: "x" }],
  ["POST", "/v1/unload_lora_adapter", { lora_name: "sql" }],
  ["GET", "/v1/events", undefined],
] as const;

const start = (options: object = {}) => {
  const started = startServer(new FakeRuntime({ adapters: ["sql"] }), { ...KEYS, adminAddress: { host: "127.0.0.1", port: 0 }, ...options });
  return { ...started, adminUrl: `http://127.0.0.1:${started.server.admin!.port}` };
};
const call = (url: string, method: string, body: object | undefined, key: string) =>
  fetch(url, { method, headers: as(key), ...(body === undefined ? {} : { body: JSON.stringify(body) }) });

describe("with an address of administration", () => {
  test("the public one has exactly these routes", () => {
    const { deps } = harness();
    expect(createPublicApp(deps).routes.map(({ method, path }) => `${method} ${path}`).sort()).toEqual([
      "GET /health", "GET /metrics", "GET /ready", "GET /v1/adapters", "GET /v1/live", "GET /v1/models", "GET /v1/models/*", "GET /version",
      "POST /v1/chat/completions", "POST /v1/completions",
    ]);
  });

  test.each(CONTROL)("%s %s is there only, whatever the key", async (method, path, body) => {
    await using started = start();
    for (const key of ["sk-api", "sk-admin"]) {
      const response = await call(started.url + path, method, body, key);
      expect([response.status, ((await response.json()) as { error: { code: string } }).error.code]).toEqual([404, "route_not_found"]);
    }
    expect((await call(started.url + path, method, body, "sk-wrong")).status).toBe(401);
    expect((await call(started.adminUrl + path, method, body, "sk-api")).status).toBe(403);
    expect([started.runtime.loads, started.runtime.adapters().map(({ name }) => name)]).toEqual([[], ["sql"]]);
    const response = await call(started.adminUrl + path, method, body, "sk-admin");
    expect(response.status).toBe(200);
    await response.body?.cancel();
  });

  test("an admin key is one key among others at the public one: it is shown no paths, and the page no controls", async () => {
    await using started = start();
    const shownAt = async (url: string) => {
      const get = async (path: string): Promise<unknown> => (await fetch(url + path, { headers: as("sk-admin") })).json();
      const { data } = (await get("/v1/adapters")) as { readonly data: readonly object[] };
      const { server } = (await get("/v1/live")) as { readonly server: { readonly hasAdmin: boolean } };
      return [data.some((each) => "path" in each), server.hasAdmin];
    };
    expect(await shownAt(started.url)).toEqual([false, false]);
    expect(await shownAt(started.adminUrl)).toEqual([true, true]);
  });

  test("both answer requests, count them together, and end together", async () => {
    await using started = start();
    for (const url of [started.url, started.adminUrl]) {
      expect((await call(`${url}/v1/completions`, "POST", { model: "sql", prompt: "hi" }, "sk-api")).status).toBe(200);
    }
    expect(started.runtime.sequences.length).toBe(2);
    started.server.drain();
    for (const url of [started.url, started.adminUrl]) expect((await fetch(`${url}/ready`, { headers: as("sk-api") })).status).toBe(503);
    await started.server.stop(0);
    for (const url of [started.url, started.adminUrl]) expect(fetch(`${url}/health`)).rejects.toThrow();
  });

  test("a name of another machine is not answered to there either, where no API key is asked for", async () => {
    await using started = start({ apiKeys: [] });
    for (const url of [started.url, started.adminUrl]) {
      expect((await fetch(`${url}/health`, { headers: { host: "evil.example" } })).status).toBe(421);
    }
  });
});

test("without one, all routes are where they were", async () => {
  await using started = startServer(new FakeRuntime({ adapters: ["sql"] }), KEYS);
  expect(started.server.admin).toBeNull();
  expect((await call(`${started.url}/v1/unload_lora_adapter`, "POST", { lora_name: "sql" }, "sk-admin")).status).toBe(200);
});

describe("an address of administration", () => {
  const refusal = (options: object): unknown => {
    try {
      const server = listen(serverOptions(new FakeRuntime(), options));
      void server.stop(0);
    } catch (thrown) {
      return thrown;
    }
    return null;
  };

  test("needs an admin key, and a key where others can reach it", () => {
    expect(refusal({ adminAddress: { host: "127.0.0.1", port: 0 } })).toMatchObject({ errorCode: "config_invalid", field: "adminPort", message: expect.stringContaining("--admin-key") });
    expect(refusal({ adminKeys: ["k"], adminAddress: { host: "0.0.0.0", port: 0 } })).toMatchObject({ errorCode: "config_invalid", field: "adminHost", message: expect.stringContaining("admin_host 0.0.0.0 can be reached") });
  });

  test("that is taken is told by its own flag, and the public one is closed again", async () => {
    await using taken = startServer();
    const free = startServer();
    await free.server.stop(0);
    const options = { ...KEYS, port: free.server.port, adminAddress: { host: "127.0.0.1", port: taken.server.port } };
    expect(refusal(options)).toMatchObject({ errorCode: "config_invalid", field: "adminPort", message: expect.stringContaining("--admin-port") });
    expect(fetch(`${free.url}/health`)).rejects.toThrow();
  });

  test("comes from the settings, on this machine only where no host is said", async () => {
    const settings = { model: DEMO, port: 0, logLevel: "error", backend: "wasm", adminKey: ["sk-admin"] };
    const configOf = (more: object) => resolveConfig(givenOptions({ ...settings, ...more }, "server")).config;
    const running = await startWhole(configOf({ adminPort: 0 }));
    try {
      expect(running.http.admin).toMatchObject({ host: "127.0.0.1" });
      expect(running.http.admin!.port).not.toBe(running.http.port);
    } finally {
      await running.stop();
    }
    const refused = await startWhole(configOf({ adminHost: "127.0.0.1" })).catch((thrown: unknown) => thrown);
    expect(refused).toBeInstanceOf(ConfigError);
    expect((refused as ConfigError).message).toContain("set admin_port as well");
  });
});
