/** The routes as one function, for an application that listens by itself. */
import { createApp } from "./app.ts";
import { createEdge } from "./edge.ts";
import { logFault } from "./log-fault.ts";
import { dependenciesOf, IDLE_TIMEOUT_S, type SurfaceOptions, TICK_MS } from "./server.ts";
import { logResponse } from "./telemetry/log-answer.ts";
import type { TimeoutServer } from "./timeout-server.ts";

export interface Handler {
  /**
   * @param request as it came
   * @param path of the route, from its first slash on, with the query: `/v1/models`
   * @param server that took the request; without it, streams that are silent for long are cut by the server's idle timeout
   */
  handle(request: Request, path: string, server: TimeoutServer | null): Promise<Response>;
  /** New generations get 503 from here on; listeners to events are closed. Answers under way go on. */
  close(): void;
}

/** A name that no client can ask for: routing takes nothing from the Host header. */
const INSIDE = "http://lorikeet.invalid";

export function createHandler(options: SurfaceOptions): Handler {
  /** By the request that the routes see. */
  const servers = new WeakMap<Request, { readonly server: TimeoutServer; readonly outer: Request }>();
  const deps = dependenciesOf(options, (request) => {
    const found = servers.get(request);
    found?.server.timeout(found.outer, 0);
    return () => found?.server.timeout(found.outer, IDLE_TIMEOUT_S);
  });
  const app = createApp(deps);
  const edge = createEdge({
    handle: (request) => app.fetch(request),
    onFault: (thrown, request) => logFault(deps, thrown, request),
    onResponse: (request, status, elapsedMs) => logResponse(deps.log, request, status, elapsedMs),
  });
  const timer = setInterval(() => deps.live.tick(), TICK_MS);
  timer.unref();
  return {
    handle(outer, path, server) {
      const request = new Request(INSIDE + path, outer);
      if (server !== null) servers.set(request, { server, outer });
      return edge(request);
    },
    close() {
      deps.health.isDraining = true;
      deps.feeds.close();
      clearInterval(timer);
    },
  };
}
