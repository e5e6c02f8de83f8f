/** Lorikeet's HTTP routes inside an application of somebody's own. */
import packageJson from "../package.json" with { type: "json" };
import { ConfigError, NativeError } from "./core/errors.ts";
import { createAccess } from "./http/access.ts";
import { errorResponse } from "./http/error-response.ts";
import { createHandler, type Handler } from "./http/handler.ts";
import type { TimeoutServer } from "./http/timeout-server.ts";
import type { LLM } from "./index.ts";
import { Generator } from "./library/generator.ts";
import { chatEncoder } from "./runtime/chat.ts";

export type { TimeoutServer } from "./http/timeout-server.ts";

/** Who may call the routes, and where they are. */
export interface MountOptions {
  /** What the routes' paths begin with, as `/llm` for `/llm/v1/models`; empty by default. Starts with a slash and ends without one. */
  readonly prefix?: string;
  /** API keys, one of which every request must send; none by default, where the application checks who asks. Shares are by name. */
  readonly apiKeys?: readonly (string | NamedKey)[];
  /** Keys that may load and unload adapters, from below the `adapterRoot` of the `LLM`; without one nobody may, by HTTP. */
  readonly adminKeys?: readonly string[];
  /** Name of the base model in requests; the name of its directory by default. */
  readonly servedModelName?: string;
  /** Hears of answers and faults, as pino's loggers do; by default faults go to standard error. */
  readonly log?: MountLog;
}

/** A key with the name of whom it was given to. */
export interface NamedKey {
  /** In shares and metrics. */
  readonly name: string;
  /** What the client sends as a bearer token. */
  readonly key: string;
}

/** Fields first, as pino has it. */
export interface MountLog {
  /** Every response. */
  debug(fields: object, message: string): void;
  /** Every answer by the model. */
  info(fields: object, message: string): void;
  /** What the operator must see. */
  error(fields: object, message: string): void;
}

/** The routes for `Bun.serve` and whatever takes a function of its kind. */
export interface MountedRoutes {
  /** For `Bun.serve({ fetch })`; `server` is the one that took the request, so that silent streams are not cut. */
  readonly fetch: (request: Request, server?: TimeoutServer | null) => Promise<Response>;
  /** New generations get 503 from here on; answers under way go on. The model stays open: it is whoever's who opened it. */
  close(): void;
}

/**
 * All routes of `lorikeet serve` but the page, as one function from request to response.
 *
 * @param llm stays its owner's, who shuts it down
 * @throws {ConfigError} `config_invalid` for a wrong prefix, or one key under two names
 * @example
 * const llm = new LLM({ model: "models/demo" });
 * const routes = openaiRoutes(llm, { prefix: "/llm" });
 * Bun.serve({ routes: { "/llm/*": routes.fetch }, fetch: () => new Response("the application's own") });
 */
export function openaiRoutes(llm: LLM, options: MountOptions = {}): MountedRoutes {
  const prefix = checkedPrefix(options.prefix ?? "");
  const door = openDoor(llm, options);
  return {
    fetch(request, server = null) {
      const { pathname, search } = new URL(request.url);
      const isOurs = pathname.startsWith(`${prefix}/`);
      return door.handle(request, (isOurs ? pathname.slice(prefix.length) : pathname) + search, server);
    },
    close: () => door.close(),
  };
}

/**
 * The same as a plugin of Elysia: its routes answer wherever the application has none of its own.
 *
 * The application's hooks before and after handling hold for them as for any route.
 *
 * @param llm stays its owner's, who shuts it down
 * @throws {ConfigError} `config_invalid` for a wrong prefix, or one key under two names
 * @example new Elysia().use(lorikeet(new LLM({ model: "models/demo" }), { prefix: "/llm" })).listen(3000);
 */
export function lorikeet(llm: LLM, options: MountOptions = {}): <App extends object>(app: App) => App {
  const prefix = checkedPrefix(options.prefix ?? "");
  const door = openDoor(llm, options);
  return (app) => {
    // By shape, so that an application with another release of Elysia can have it, and keeps its own types.
    const elysia = app as unknown as ElysiaShape;
    if (typeof elysia.all !== "function" || typeof elysia.onStop !== "function") {
      throw new ConfigError("config_invalid", "lorikeet() is a plugin for an Elysia application; for others there is openaiRoutes()");
    }
    elysia.all(`${prefix}/*`, ({ request, route, server }) => door.handle(request, below(request.url, route), server ?? null), { parse: "none" });
    elysia.onStop(() => door.close());
    return app;
  };
}

interface ElysiaShape {
  all(path: string, handle: (context: ElysiaContext) => Promise<Response>, hook: { readonly parse: "none" }): unknown;
  onStop(listener: () => void): unknown;
}

interface ElysiaContext {
  readonly request: Request;
  /** Pattern of the route, prefixes of the application's groups included. */
  readonly route: string;
  readonly server: TimeoutServer | null;
}

/** What of the path the route's star stands for, undecoded; a group's prefix may hold parameters, each one segment. */
function below(url: string, route: string): string {
  const { pathname, search } = new URL(url);
  const depth = route.split("/").length - 1;
  return `/${pathname.split("/").slice(depth).join("/")}${search}`;
}

/** Requests wait until the model is open. */
function openDoor(llm: LLM, options: MountOptions): Handler {
  const { apiKeys = [], adminKeys = [], servedModelName, log = faultsOnly } = options;
  // Wrong keys are the program's mistake, which it should hear of before any request does.
  createAccess(apiKeys, adminKeys);
  const opened = Generator.runtimeOf(llm).then((runtime) =>
    createHandler({
      runtime,
      encodeChat: chatEncoder(runtime.model),
      apiKeys,
      adminKeys,
      baseNames: [servedModelName ?? runtime.model.name],
      version: packageJson.version,
      log,
    }),
  );
  let isClosed = false;
  opened.then(
    (handler) => isClosed && handler.close(),
    (thrown: unknown) => log.error({ err: thrown }, "the model could not be opened"),
  );
  return {
    async handle(request, path, server) {
      let handler: Handler;
      try {
        handler = await opened;
      } catch (cause) {
        return errorResponse(new NativeError("backend_unavailable", "the model could not be opened", { cause }));
      }
      return handler.handle(request, path, server);
    },
    close() {
      isClosed = true;
      opened.then((handler) => handler.close(), () => undefined);
    },
  };
}

const faultsOnly: MountLog = {
  debug: () => undefined,
  info: () => undefined,
  error: (fields, message) => console.error(message, fields),
};

function checkedPrefix(prefix: string): string {
  if (prefix === "" || /^(\/[\w.~-]+)+$/.test(prefix)) return prefix;
  throw new ConfigError("config_invalid", `prefix must start with a slash and end without one, as /llm, got ${JSON.stringify(prefix)}`, { field: "prefix" });
}
