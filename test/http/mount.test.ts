/** The routes inside applications of somebody's own. */
import { describe, expect, test } from "bun:test";
import { Elysia } from "elysia";
import OpenAI, { NotFoundError } from "openai";
import { ModelError } from "../../src/core/errors.ts";
import { Generator } from "../../src/library/generator.ts";
import { lorikeet, type MountOptions, openaiRoutes } from "../../src/mount.ts";
import type { Runtime } from "../../src/runtime/runtime.ts";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { until } from "../helpers/until.ts";
import { silentLog } from "./harness.ts";

const llmOf = (runtime: FakeRuntime) => new Generator(Promise.resolve<Runtime>(runtime));
const COMPLETION = { model: "sql", prompt: "How many users?" };

function startApp(runtime: FakeRuntime, options: MountOptions = {}) {
  const app = new Elysia()
    .state("visits", 1)
    .onAfterHandle(({ set }) => void (set.headers["x-app"] = "mine"))
    .get("/", () => "the application's own" as const)
    .use(lorikeet(llmOf(runtime), { prefix: "/llm", log: silentLog(), ...options }))
    .get("/visits", ({ store }) => store.visits)
    .listen({ port: 0, hostname: "127.0.0.1" });
  const url = `http://127.0.0.1:${app.server!.port}`;
  return {
    app,
    url,
    client: new OpenAI({ baseURL: `${url}/llm/v1`, apiKey: "none", maxRetries: 0 }),
    [Symbol.asyncDispose]: async () => void (await app.stop(true)),
  };
}

const json = (body: object): RequestInit => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

describe("in an Elysia application", () => {
  test("an OpenAI client is answered under the prefix, whole and streamed", async () => {
    await using server = startApp(new FakeRuntime({ script: saying("SELECT 1;") }));
    expect((await server.client.completions.create(COMPLETION)).choices[0]!.text).toBe("SELECT 1;");
    let text = "";
    for await (const chunk of await server.client.completions.create({ ...COMPLETION, stream: true })) text += chunk.choices[0]?.text ?? "";
    expect(text).toBe("SELECT 1;");
    expect((await server.client.models.list()).data.map(({ id }) => id)).toContain("sql");
  });

  test("its own routes, types and hooks stay what they were", async () => {
    await using server = startApp(new FakeRuntime());
    const routes: { readonly visits: { readonly get: { readonly response: { readonly 200: number } } } } = server.app["~Routes"];
    expect(routes).toBeDefined();
    expect(await (await fetch(server.url)).text()).toBe("the application's own");
    expect(await (await fetch(`${server.url}/visits`)).text()).toBe("1");
    const health = await fetch(`${server.url}/llm/health`);
    expect([health.status, health.headers.get("x-app")]).toEqual([200, "mine"]);
    expect((await fetch(`${server.url}/llm/health`, { method: "HEAD" })).status).toBe(200);
  });

  test("what is wrong is told in OpenAI's form under the prefix, and in the application's elsewhere", async () => {
    await using server = startApp(new FakeRuntime());
    const wrong = async (path: string, init?: RequestInit) => {
      const response = await fetch(server.url + path, init);
      return [response.status, ((await response.json()) as { error: { code: string } }).error.code];
    };
    expect(await wrong("/llm/v1/nothing")).toEqual([404, "route_not_found"]);
    expect(await wrong("/llm/v1/chat/completions")).toEqual([405, "method_not_allowed"]);
    expect(await wrong("/llm/v1/completions", { ...json({}), body: "{" })).toEqual([400, "invalid_request"]);
    expect(await wrong("/llm/v1/completions", json({ model: "nobody", prompt: "x" }))).toEqual([404, "model_not_found"]);
    expect(await (await fetch(`${server.url}/nothing`)).text()).toBe("NOT_FOUND");
    expect(await server.client.models.retrieve("nobody").catch((thrown: unknown) => thrown)).toBeInstanceOf(NotFoundError);
  });

  test("names in paths arrive undecoded, also below a group with a parameter", async () => {
    const app = new Elysia().group("/of/:customer", (group) => group.use(lorikeet(llmOf(new FakeRuntime()), { prefix: "/llm" })));
    const get = (path: string) => app.handle(new Request(`http://localhost${path}`));
    expect((await get("/of/a%2Fb/llm/v1/models/sql?x=1")).status).toBe(200);
    expect(((await (await get("/of/me/llm/v1/models/a%2Fb")).json()) as { error: { message: string } }).error.message).toContain('"a/b"');
  });

  test("a client that goes away cancels its request", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("one") });
    await using server = startApp(runtime);
    const stream = await server.client.completions.create({ ...COMPLETION, stream: true });
    for await (const _ of stream) break;
    await until(() => runtime.sequences.length === 1 && runtime.sequences[0]!.isCancelled);
    const controller = new AbortController();
    const whole = fetch(`${server.url}/llm/v1/completions`, { ...json(COMPLETION), signal: controller.signal }).catch(() => null);
    await until(() => runtime.sequences.length === 2);
    controller.abort();
    await whole;
    await until(() => runtime.sequences[1]!.isCancelled);
  });

  test("keys are asked for where there are any", async () => {
    await using server = startApp(new FakeRuntime({ script: saying("x") }), { apiKeys: [{ name: "ann", key: "sk-a" }] });
    expect((await fetch(`${server.url}/llm/v1/models`)).status).toBe(401);
    expect((await fetch(`${server.url}/llm/v1/models`, { headers: { authorization: "Bearer sk-a" } })).status).toBe(200);
    expect((await fetch(`${server.url}/llm/health`)).status).toBe(200);
  });

  test("once it has stopped, nothing new is begun", async () => {
    const app = new Elysia().use(lorikeet(llmOf(new FakeRuntime({ script: saying("x") })))).listen({ port: 0, hostname: "127.0.0.1" });
    expect((await app.handle(new Request("http://x/v1/completions", json(COMPLETION)))).status).toBe(200);
    await app.stop(true);
    expect((await app.handle(new Request("http://x/v1/completions", json(COMPLETION)))).status).toBe(503);
  });
});

describe("as one function", () => {
  test("takes the place of a route of Bun.serve", async () => {
    const routes = openaiRoutes(llmOf(new FakeRuntime({ script: saying("SELECT 1;") })), { prefix: "/llm", servedModelName: "base" });
    await using server = Bun.serve({ port: 0, hostname: "127.0.0.1", routes: { "/llm/*": routes.fetch }, fetch: () => new Response("mine") });
    const client = new OpenAI({ baseURL: `${server.url.href}llm/v1`, apiKey: "none", maxRetries: 0 });
    expect((await client.completions.create(COMPLETION)).choices[0]!.text).toBe("SELECT 1;");
    expect((await client.models.list()).data[0]!.id).toBe("base");
    expect(await (await fetch(server.url)).text()).toBe("mine");
    routes.close();
    expect((await fetch(`${server.url.href}llm/v1/completions`, json(COMPLETION))).status).toBe(503);
  });

  test("keeps a silent stream open in the server that took it, and puts the timeout back", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => sequence.say("one") });
    const routes = openaiRoutes(llmOf(runtime));
    const told: [Request, number][] = [];
    const request = new Request("http://x/v1/completions", json({ ...COMPLETION, stream: true }));
    const response = await routes.fetch(request, { timeout: (about, seconds) => void told.push([about, seconds]) });
    expect(told).toEqual([[request, 0]]);
    runtime.sequences[0]!.end("stop");
    await response.text();
    expect(told).toEqual([[request, 0], [request, 30]]);
    expect(told.every(([about]) => about === request)).toBe(true);
  });

  test("waits for the model; one that cannot be opened is told to the log, not to clients", async () => {
    const opening = Promise.withResolvers<Runtime>();
    const log = silentLog();
    const routes = openaiRoutes(new Generator(opening.promise), { log });
    const asked = routes.fetch(new Request("http://x/v1/models"));
    opening.reject(new ModelError("model_invalid", "/secret/place is not a directory"));
    const response = await asked;
    expect(response.status).toBe(503);
    expect(await response.text()).not.toContain("secret");
    expect(log.lines.map(({ message }) => message)).toEqual(["the model could not be opened"]);
  });

  test.each(["llm", "/llm/", "/", "/a b", "/*", "/:x"])("refuses the prefix %p", (prefix) => {
    expect(() => openaiRoutes(llmOf(new FakeRuntime()), { prefix })).toThrow(/prefix must start with a slash and end without one, as \/llm, got "/);
  });

  test("refuses one key under two names, and what is no Elysia application", () => {
    const apiKeys = [{ name: "a", key: "k" }, { name: "b", key: "k" }];
    expect(() => openaiRoutes(llmOf(new FakeRuntime()), { apiKeys })).toThrow("a and b have one API key");
    expect(() => lorikeet(llmOf(new FakeRuntime()))({})).toThrow("lorikeet() is a plugin for an Elysia application");
  });
});
