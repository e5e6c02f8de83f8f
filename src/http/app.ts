/** The Elysia application: every route, behind one key check and one error form. */
import { Elysia } from "elysia";
import { RequestError } from "../core/errors.ts";
import { logFault } from "./log-fault.ts";
import type { HttpDependencies } from "./dependencies.ts";
import { errorResponse } from "./error-response.ts";
import { adapterControlRoutes } from "./routes/adapter-control.ts";
import { adapterRoutes } from "./routes/adapters.ts";
import { chatCompletionRoutes } from "./routes/chat-completions.ts";
import { completionRoutes } from "./routes/completions.ts";
import { eventRoutes } from "./routes/events.ts";
import { healthRoutes } from "./routes/health.ts";
import { liveRoutes } from "./routes/live.ts";
import { metricsRoutes } from "./routes/metrics.ts";
import { modelRoutes } from "./routes/models.ts";

/** The one route that needs no key. */
const OPEN_ROUTE = "/health";

/** Every route. */
export const createApp = (deps: HttpDependencies) => createPublicApp(deps).use(adapterControlRoutes(deps)).use(eventRoutes(deps));

/** Every route but those of administration, for a listener beside which there is another for these. */
export const createPublicApp = (deps: HttpDependencies) =>
  createBase(deps)
    .use(healthRoutes(deps))
    .use(modelRoutes(deps))
    .use(adapterRoutes(deps))
    .use(completionRoutes(deps))
    .use(chatCompletionRoutes(deps))
    .use(metricsRoutes(deps))
    .use(liveRoutes(deps));

/** What holds for every route, known or not: errors in OpenAI's form, and the key. */
export function createBase(deps: HttpDependencies) {
  const app = new Elysia({ name: "lorikeet", normalize: false });
  return (
    app
      .onError(({ code, error, request }) => {
        if (code === "NOT_FOUND") return notFound(app.routes, request);
        logFault(deps, error, request);
        return errorResponse(error);
      })
      // Before routing, so that nobody without a key learns which routes and methods there are.
      .onRequest(({ request }) => {
        const isOpen = request.method === "GET" && new URL(request.url).pathname === OPEN_ROUTE;
        if (!isOpen) deps.access.check(request.headers);
      })
      // After it the route that was matched decides, whatever the text of the path.
      .onBeforeHandle(({ route, request }) => {
        if (route !== OPEN_ROUTE) deps.access.check(request.headers);
      })
  );
}

interface RouteEntry {
  readonly method: string;
  readonly path: string;
}

function notFound(routes: readonly RouteEntry[], request: Request): Response {
  const { pathname } = new URL(request.url);
  const methods = routes.filter(({ path }) => covers(path, pathname)).map(({ method }) => method);
  if (methods.length === 0) {
    return errorResponse(new RequestError("route_not_found", "there is no such route here"));
  }
  const allow = [...new Set(methods)].join(", ");
  return errorResponse(
    new RequestError("method_not_allowed", `this route takes ${allow}, not ${request.method.slice(0, 20)}`),
    { allow },
  );
}

/** For the message only: whether a route of another method would have taken the path. */
const covers = (path: string, pathname: string): boolean =>
  path.endsWith("/*") ? pathname.startsWith(path.slice(0, -1)) : path === pathname;
