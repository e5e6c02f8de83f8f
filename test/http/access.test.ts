import { describe, expect, test } from "bun:test";
import { createBase } from "../../src/http/app.ts";
import { createAccess } from "../../src/http/access.ts";
import { createEdge } from "../../src/http/edge.ts";
import { listen } from "../../src/http/server.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { harness, serverOptions, startServer } from "./harness.ts";
import { rawStatus } from "./raw-client.ts";

const KEY = "sk-first";
const locked = () => harness(new FakeRuntime(), { apiKeys: [KEY, "sk-second"] });
const bearer = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });

describe("an API key", () => {
  test("is asked for by every route but /health", async () => {
    const { app, fetch } = locked();
    const routes = app.routes.map(({ method, path }) => ({ method, path }));
    expect(routes.length).toBeGreaterThanOrEqual(8);
    for (const { method, path } of routes) {
      const url = path.replace("*", "demo");
      const body = method === "POST" ? { body: "{}", headers: { "content-type": "application/json" } } : {};
      const { status } = await fetch(url, { method, ...body });
      expect({ path, status }).toEqual({ path, status: path === "/health" ? 200 : 401 });
    }
  });

  test.each([
    ["GET", "/v2/models"],
    ["GET", "/"],
    ["GET", "/v1/completions"],
    ["DELETE", "/v1/models"],
    ["PUT", "/nothing"],
    ["OPTIONS", "/v1/completions"],
    ["POST", "/health"],
    ["HEAD", "/healthz"],
    ["POST", "/ready"],
  ])("is asked for before it is said whether %s %s exists", async (method, path) => {
    const response = await locked().fetch(path, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([401, null]);
    expect([404, 405]).toContain((await locked().fetch(path, { method, ...bearer(KEY) })).status);
  });

  test("is asked for before the body is looked at", async () => {
    const response = await locked().post("/v1/completions", "not JSON");
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toBe("Bearer");
    expect(await response.json()).toEqual({
      error: {
        message: "a valid API key is needed; send it in the header Authorization: Bearer KEY",
        type: "authentication_error",
        param: null,
        code: "unauthorized",
      },
    });
  });

  test.each([KEY, "sk-second"])("%s opens the routes", async (key) => {
    expect((await locked().fetch("/v1/models", bearer(key))).status).toBe(200);
  });

  test.each(["sk-firs", "sk-first2", "", "SK-FIRST", "sk-first,sk-second"])("%p does not", async (key) => {
    expect((await locked().fetch("/v1/models", bearer(key))).status).toBe(401);
  });

  test("must be a bearer token", () => {
    const access = createAccess([KEY]);
    expect(() => access.check(new Headers({ authorization: `Basic ${KEY}` }))).toThrow("a valid API key");
    expect(() => access.check(new Headers({ "x-api-key": KEY }))).toThrow("a valid API key");
    expect(() => access.check(new Headers({ authorization: `bearer ${KEY}` }))).not.toThrow();
  });

  test("is not asked for where there is none", async () => {
    expect(createAccess([]).needsKey).toBe(false);
    expect((await harness().fetch("/v1/models")).status).toBe(200);
  });
});

describe("the Host header", () => {
  const paths = ["/v1/models", "/aaa/v1/models", "//v1/models", "/v1/models/../models", "/health/../v1/models", "/%2e%2e/v1/models"];

  test("never leads around the key, whatever path it is put before", async () => {
    await using server = startServer(new FakeRuntime(), { apiKeys: [KEY] });
    for (const host of ["x", "ab", "abc", "abcd", "localhost", "h/v1", "a@b.cd", "[::1]", "1.2.3.4:80", "a b c d"]) {
      for (const path of paths) {
        const status = await rawStatus(server.server.port, `GET ${path} HTTP/1.1`, [`Host: ${host}`]);
        expect({ host, path, isRefused: status >= 400 && status < 500 }).toEqual({ host, path, isRefused: true });
      }
    }
  });

  test.each([["x"], ["abc"], ["a b c d"], ["user@host"], ["localhost:99999"], ["-bad.example"], ["héllo.example"]])(
    "%p is misdirected before it is routed",
    async (host) => {
      await using server = startServer();
      expect(await rawStatus(server.server.port, "GET /health HTTP/1.1", [`Host: ${host}`])).toBe(421);
    },
  );

  test("that is missing or there twice is refused", async () => {
    await using server = startServer();
    const { port } = server.server;
    expect(await rawStatus(port, "GET /health HTTP/1.1", [])).toBe(400);
    expect(await rawStatus(port, "GET /health HTTP/1.1", ["Host: localhost", "Host: x"])).toBe(421);
  });

  test("must be a name of this machine when a loopback server has no key", async () => {
    await using server = startServer(new FakeRuntime(), { allowedHosts: ["models.example"] });
    const { port } = server.server;
    for (const host of ["localhost", "127.0.0.1:8000", "[::1]:8000", "LocalHost", "models.example"]) {
      expect({ host, status: await rawStatus(port, "GET /health HTTP/1.1", [`Host: ${host}`]) }).toEqual({ host, status: 200 });
    }
    expect(await rawStatus(port, "GET /health HTTP/1.1", ["Host: rebound.example"])).toBe(421);
  });
});

describe("a public address", () => {
  test("is not listened on without a key", () => {
    expect(() => listen(serverOptions(new FakeRuntime(), { host: "0.0.0.0" }))).toThrow(
      "host 0.0.0.0 can be reached from other machines, and there is no API key",
    );
  });

  test.each([{ apiKeys: [KEY] }, { allowNoKey: true }])("is listened on with %p", async (options) => {
    await using server = startServer(new FakeRuntime(), { host: "0.0.0.0", ...options });
    expect(await rawStatus(server.server.port, "GET /health HTTP/1.1", ["Host: any.example"])).toBe(200);
  });
});

describe("a throw that nobody expected", () => {
  const secret = new Error("ENOENT: /home/someone/secret");
  const fail = () => {
    throw secret;
  };
  type Base = ReturnType<typeof createBase>;
  const hooks: Readonly<Record<string, (app: Base) => unknown>> = {
    request: (app) => app.onRequest(fail),
    parse: (app) => app.onParse(fail),
    transform: (app) => app.onTransform(fail),
    derive: (app) => app.derive(fail),
    resolve: (app) => app.resolve(fail),
    beforeHandle: (app) => app.onBeforeHandle(fail),
    afterHandle: (app) => app.onAfterHandle(fail),
    mapResponse: (app) => app.mapResponse(fail),
  };

  test.each(Object.keys(hooks))("in the hook %s is a 500 that says nothing of it", async (name) => {
    const { deps } = harness();
    const app = createBase(deps);
    hooks[name]!(app);
    app.post("/x", ({ body }) => ({ body }));
    const edge = createEdge({ handle: (request) => app.fetch(request), allowedHosts: null, onFault: () => undefined });
    const headers = { host: "localhost", "content-type": "application/json" };
    const response = await edge(new Request("http://localhost/x", { method: "POST", body: "{}", headers }));
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain("secret");
  });

  test("in front of the router is a 500 as well, and is reported", async () => {
    const faults: unknown[] = [];
    const edge = createEdge({ handle: fail, allowedHosts: null, onFault: (thrown) => faults.push(thrown) });
    const response = await edge(new Request("http://localhost/health", { headers: { host: "localhost" } }));
    expect([response.status, faults]).toEqual([500, [secret]]);
  });

  test("in the runtime is a 500 with a fixed sentence, and is logged with its cause", async () => {
    const runtime = new FakeRuntime({ script: () => { throw secret; } });
    const { post, deps } = harness(runtime);
    const response = await post("/v1/completions", { model: "demo", prompt: "hi" });
    expect(response.status).toBe(500);
    expect(await response.json()).toEqual({
      error: {
        message: "an internal error occurred; the server's log has the details",
        type: "server_error",
        param: null,
        code: "invariant_violated",
      },
    });
    expect(deps.log).toMatchObject({ lines: [{ fields: { err: secret } }] });
  });
});

describe("routes", () => {
  test("that do not exist are 404, and other methods 405 with Allow", async () => {
    const { fetch } = harness();
    const missing = await fetch("/v2/completions");
    expect([missing.status, ((await missing.json()) as { error: { code: string } }).error.code]).toEqual([404, "route_not_found"]);
    const wrong = await fetch("/v1/completions");
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect(((await wrong.json()) as { error: { code: string } }).error.code).toBe("method_not_allowed");
    expect((await fetch("/v1/models", { method: "DELETE" })).status).toBe(405);
  });

  test("answer HEAD as GET without its body, key included", async () => {
    const response = await harness().fetch("/health", { method: "HEAD" });
    expect([response.status, await response.text()]).toEqual([200, ""]);
    expect((await locked().fetch("/v1/models", { method: "HEAD" })).status).toBe(401);
  });

  test("echo a request id of plain characters, and make one otherwise", async () => {
    const { fetch } = harness();
    const idFor = async (given: string) => (await fetch("/health", { headers: { "x-request-id": given } })).headers.get("x-request-id");
    expect(await idFor("trace-1.a:b_c")).toBe("trace-1.a:b_c");
    for (const bad of ["a b", "<script>", "x".repeat(129)]) expect(await idFor(bad)).toMatch(/^[0-9a-f-]{36}$/);
  });
});
