/** The listening server: edge, application, timers, and a stop that lets answers end. */
import { systemClock, type Clock } from "../core/clock.ts";
import { ConfigError } from "../core/errors.ts";
import type { ChatEncoder } from "../runtime/chat.ts";
import type { Runtime } from "../runtime/runtime.ts";
import { type ApiKey, createAccess, withoutAdmin } from "./access.ts";
import { createApp, createPublicApp } from "./app.ts";
import { Health, type HttpDependencies, type KeepOpen, type Log } from "./dependencies.ts";
import { createEdge } from "./edge.ts";
import { EventFeeds } from "./event-feeds.ts";
import { defaultBodyLimits } from "./json-body.ts";
import { type LiveStreamLimits, LiveStreams } from "./live-streams.ts";
import { logFault } from "./log-fault.ts";
import { AdapterMetrics } from "./metrics/adapter-metrics.ts";
import { ClientMetrics } from "./metrics/client-metrics.ts";
import { RequestMetrics } from "./metrics/request-metrics.ts";
import type { AnswerListener } from "./telemetry/answer-record.ts";
import { logAnswer, logResponse } from "./telemetry/log-answer.ts";

export interface Address {
  readonly host: string;
  /** 0 for any free one, where one is to be opened. */
  readonly port: number;
}

/** What is served to whom, wherever it listens. */
export interface SurfaceOptions {
  readonly runtime: Runtime;
  readonly encodeChat: ChatEncoder;
  /** With the name of whom each was given to, or without. */
  readonly apiKeys: readonly (string | ApiKey)[];
  /** Whoever has one may load and unload adapters; none: nobody may. */
  readonly adminKeys: readonly string[];
  readonly baseNames: readonly [string, ...string[]];
  readonly version: string;
  readonly log: Log;
  /** Hears of every answer when it is over; it is logged in any case. */
  readonly onAnswer?: AnswerListener;
  readonly clock?: Clock;
  readonly streamLimits?: LiveStreamLimits;
  /** Longest wait of a stream's headers for its first event; default 1000. */
  readonly headersAfterMs?: number;
}

export interface HttpServerOptions extends SurfaceOptions, Address {
  /** Where the routes of administration are, and only there; left out or `null` for beside all others. */
  readonly adminAddress?: Address | null;
  /** Takes requests from other machines without a key. */
  readonly allowNoKey: boolean;
  /** Host names to answer to besides the machine's loopback names; only checked when there are no keys. */
  readonly allowedHosts: readonly string[];
  /** What is shown at `/` to a browser, bundled by Bun; left out for nothing. It holds no data: that has keys. */
  readonly page?: Bun.HTMLBundle;
}

export interface HttpServer extends Address {
  /** Where it is administered, if not there. */
  readonly admin: Address | null;
  /** New generations get 503 from here on. */
  drain(): void;
  /** `/health` says from here on that the process should be replaced. */
  fail(): void;
  /** Waits up to `graceMs` for answers under way to leave, then closes every connection. */
  stop(graceMs?: number): Promise<void>;
}

/** Connections that send or take nothing are closed after this long; generations are exempt. */
export const IDLE_TIMEOUT_S = 30;
export const TICK_MS = 1_000;

/**
 * @throws {ConfigError} `config_invalid` for an address that cannot be had, or that is open to others without a key; for an address of
 * administration without an admin key
 */
export function listen(options: HttpServerOptions): HttpServer {
  const admin = options.adminAddress ?? null;
  if (admin !== null && options.adminKeys.length === 0) {
    throw new ConfigError("config_invalid", "admin_port opens an address for whoever has an admin key, and there is none; set --admin-key or LORIKEET_ADMIN_KEY", { field: "adminPort" });
  }
  const deps = dependenciesOf(options, () => () => undefined);
  const listeners: Listener[] = [];
  const stopAll = async (): Promise<void> => void (await Promise.all(listeners.map(({ server }) => server.stop(true))));
  try {
    if (admin === null) listeners.push(openListener(options, deps, options, createApp, "port"));
    else {
      listeners.push(openListener(options, { ...deps, access: withoutAdmin(deps.access) }, options, createPublicApp, "port"));
      listeners.push(openListener(options, deps, admin, createApp, "adminPort"));
    }
  } catch (thrown) {
    void stopAll();
    throw thrown;
  }
  const timer = setInterval(() => deps.live.tick(), TICK_MS);
  timer.unref();
  const [first, second] = listeners.map(({ host, port }) => ({ host, port }));
  return {
    ...first!,
    admin: second ?? null,
    drain() {
      deps.health.isDraining = true;
    },
    fail() {
      deps.health.hasFailed = true;
    },
    async stop(graceMs = 2_000) {
      deps.health.isDraining = true;
      deps.feeds.close();
      // Its promise would also wait for idle connections that their clients keep.
      for (const { server } of listeners) void server.stop(false);
      const deadline = performance.now() + graceMs;
      while (listeners.some(({ server }) => server.pendingRequests > 0) && performance.now() < deadline) await Bun.sleep(5);
      clearInterval(timer);
      await stopAll();
    },
  };
}

interface Listener extends Address {
  readonly server: Bun.Server<undefined>;
}

/** One socket with an application behind it. */
function openListener(
  options: HttpServerOptions,
  shared: HttpDependencies,
  { host, port }: Address,
  appOf: (deps: HttpDependencies) => { fetch(request: Request): Response | Promise<Response> },
  setting: "port" | "adminPort",
): Listener {
  refuseOpenAddress(options, host, setting);
  let keepOpen: KeepOpen = () => () => undefined;
  const deps = { ...shared, keepOpen: (request: Request) => keepOpen(request) };
  const app = appOf(deps);
  const edge = createEdge({
    handle: (request) => app.fetch(request),
    allowedHosts: options.apiKeys.length > 0 || !isLoopback(host) ? null : hostNames(options, host),
    onFault: (thrown, request) => logFault(deps, thrown, request),
    onResponse: (request, status, elapsedMs) => logResponse(deps.log, request, status, elapsedMs),
  });
  const server = bind(() =>
    Bun.serve({
      hostname: host,
      port,
      idleTimeout: IDLE_TIMEOUT_S,
      // Bun's own refusal says nothing. Our reader counts for itself, and what nobody reads Bun does not keep.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      development: false,
      // Without it, Bun shares a port that is in use with whoever has it.
      reusePort: false,
      ...(options.page === undefined ? {} : { routes: { "/": options.page } }),
      fetch: edge,
      error: (thrown) => {
        logFault(deps, thrown);
        return new Response(null, { status: 500 });
      },
    }),
    host, port, setting,
  );
  keepOpen = (request) => {
    server.timeout(request, 0);
    return () => server.timeout(request, IDLE_TIMEOUT_S);
  };
  return { host, port: server.port ?? port, server };
}

export function dependenciesOf(options: SurfaceOptions, keepOpen: KeepOpen): HttpDependencies {
  const clock = options.clock ?? systemClock;
  const live = new LiveStreams(clock, options.streamLimits);
  const adapterMetrics = new AdapterMetrics();
  const clientMetrics = new ClientMetrics();
  options.runtime.watch((transition) => adapterMetrics.see(transition));
  return {
    runtime: options.runtime,
    encodeChat: options.encodeChat,
    clock,
    log: options.log,
    access: createAccess(options.apiKeys, options.adminKeys),
    live,
    feeds: new EventFeeds({ runtime: options.runtime, live }),
    metrics: new RequestMetrics(clock),
    adapterMetrics,
    clientMetrics,
    health: new Health(),
    onAnswer: (record) => {
      clientMetrics.see(record);
      logAnswer(options.log, record);
      options.onAnswer?.(record);
    },
    bodyLimits: defaultBodyLimits,
    baseNames: options.baseNames,
    version: options.version,
    created: clock.unixSeconds(),
    headersAfterMs: options.headersAfterMs ?? 1_000,
    keepOpen,
  };
}

const LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"];

export const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || host === "[::1]" || /^127(\.\d{1,3}){3}$/.test(host);

/** Against pages that make a browser call a local server under a name of theirs. */
const hostNames = ({ allowedHosts }: HttpServerOptions, host: string): ReadonlySet<string> =>
  new Set([...LOOPBACK_NAMES, host, ...allowedHosts].map((name) => name.toLowerCase()));

function refuseOpenAddress({ apiKeys, allowNoKey }: HttpServerOptions, host: string, setting: "port" | "adminPort"): void {
  if (isLoopback(host) || apiKeys.length > 0 || allowNoKey) return;
  throw new ConfigError(
    "config_invalid",
    `${setting === "port" ? "host" : "admin_host"} ${host} can be reached from other machines, and there is no API key; set --api-key or LORIKEET_API_KEY, or pass --allow-no-key`,
    { field: setting === "port" ? "host" : "adminHost" },
  );
}

function bind<T>(serve: () => T, host: string, port: number, setting: "port" | "adminPort"): T {
  try {
    return serve();
  } catch (cause) {
    const code = (cause as { readonly code?: unknown }).code;
    const reason = code === "EADDRINUSE" ? `is in use; choose another with ${setting === "port" ? "--port" : "--admin-port"}` : "cannot be listened on";
    throw new ConfigError("config_invalid", `${host}:${port} ${reason}`, { field: setting, cause });
  }
}
