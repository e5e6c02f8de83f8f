/** The HTTP layer over a fake runtime, in process or on a socket. */
import type { Clock } from "../../src/core/clock.ts";
import { createApp } from "../../src/http/app.ts";
import type { HttpDependencies } from "../../src/http/dependencies.ts";
import { createEdge } from "../../src/http/edge.ts";
import { dependenciesOf, type HttpServerOptions, listen } from "../../src/http/server.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { BOS, fakeTokenizer } from "../helpers/fake-tokenizer.ts";

export interface LogLine {
  readonly fields: object;
  readonly message: string;
}

export const silentLog = () => {
  const lines: LogLine[] = [];
  const keep = (fields: object, message: string) => void lines.push({ fields, message });
  return { debug: () => undefined, info: keep, error: keep, lines };
};

export const serverOptions = (runtime: FakeRuntime, options: Partial<HttpServerOptions> = {}): HttpServerOptions => ({
  runtime,
  encodeChat: (messages) => [
    BOS,
    ...messages.flatMap(({ role, content }) => fakeTokenizer.encode(`${role}: ${content}\n`, { addSpecialTokens: false })),
  ],
  host: "127.0.0.1",
  port: 0,
  apiKeys: [],
  adminKeys: [],
  allowNoKey: false,
  allowedHosts: [],
  baseNames: ["demo"],
  version: "9.9.9",
  log: silentLog(),
  ...options,
});

export interface Harness {
  readonly runtime: FakeRuntime;
  readonly deps: HttpDependencies;
  readonly app: ReturnType<typeof createApp>;
  /** Sends one request through edge and application. */
  readonly fetch: (path: string, init?: RequestInit) => Promise<Response>;
  readonly post: (path: string, body: unknown, init?: RequestInit) => Promise<Response>;
}

export function harness(runtime = new FakeRuntime(), options: Partial<HttpServerOptions> = {}): Harness {
  const deps = dependenciesOf(serverOptions(runtime, options), () => () => undefined);
  const app = createApp(deps);
  const edge = createEdge({ handle: (request) => app.fetch(request), allowedHosts: null, onFault: () => undefined });
  const fetch = (path: string, init: RequestInit = {}) => {
    const headers = new Headers(init.headers);
    if (!headers.has("host")) headers.set("host", "localhost");
    return edge(new Request(`http://localhost${path}`, { ...init, headers }));
  };
  return {
    runtime,
    deps,
    app,
    fetch,
    post: (path, body, init = {}) =>
      fetch(path, {
        method: "POST",
        ...init,
        headers: { "content-type": "application/json", ...(init.headers as Record<string, string> | undefined) },
        body: typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
      }),
  };
}

export function startServer(runtime = new FakeRuntime(), options: Partial<HttpServerOptions> = {}) {
  const server = listen(serverOptions(runtime, options));
  return {
    runtime,
    server,
    url: `http://127.0.0.1:${server.port}`,
    [Symbol.asyncDispose]: () => server.stop(0),
  };
}

/** The `data:` lines of an event stream, parsed; `[DONE]` as it stands. */
export const dataOf = (text: string): unknown[] =>
  text
    .split("\n\n")
    .filter((event) => event.startsWith("data: "))
    .map((event) => (event === "data: [DONE]" ? "[DONE]" : JSON.parse(event.slice("data: ".length))));

export class ManualClock implements Clock {
  ms = 0;
  nowMs(): number {
    return this.ms;
  }
  unixSeconds(): number {
    return 1_700_000_000;
  }
}
