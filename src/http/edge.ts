/**
 * What stands in front of the router: requests it could misread never reach it.
 *
 * Elysia 1.4 looks for the path from the 11th character of the URL on, and the URL begins with the client's
 * Host header; with a short Host it routes by another path than `new URL()` reads.
 */
import { RequestError } from "../core/errors.ts";
import { errorResponse } from "./error-response.ts";
import { requestIdOf } from "./request-id.ts";

export interface EdgeOptions {
  readonly handle: (request: Request) => Response | Promise<Response>;
  /** Host names, without port, that may be asked for; `null` for any well-formed one; left out where requests come from a program. */
  readonly allowedHosts?: ReadonlySet<string> | null;
  readonly onFault: (thrown: unknown, request: Request) => void;
  /** Hears of every response as its headers leave. */
  readonly onResponse?: (request: Request, status: number, elapsedMs: number) => void;
}

export type Edge = (request: Request) => Promise<Response>;

export function createEdge({ handle, allowedHosts, onFault, onResponse }: EdgeOptions): Edge {
  return async (request) => {
    const startMs = performance.now();
    let response: Response;
    try {
      if (allowedHosts !== undefined) checkHost(request, allowedHosts);
      response = await (request.method === "HEAD" ? headOf(request, handle) : handle(request));
    } catch (thrown) {
      if (!(thrown instanceof RequestError)) onFault(thrown, request);
      response = errorResponse(thrown);
    }
    response.headers.set("x-request-id", requestIdOf(request));
    response.headers.set("x-content-type-options", "nosniff");
    onResponse?.(request, response.status, performance.now() - startMs);
    return response;
  };
}

const NAME = /^[a-z0-9][a-z0-9._-]{2,252}$/;
const IPV6 = /^\[[0-9a-f:.]{2,45}\]$/;

function checkHost(request: Request, allowedHosts: ReadonlySet<string> | null): void {
  const header = request.headers.get("host")?.toLowerCase() ?? "";
  const { name = "", port = "" } = /^(?<name>\[[^\]]*\]|[^:]*)(?::(?<port>\d{1,5}))?$/.exec(header)?.groups ?? {};
  const isWellFormed = header.length >= 4 && (NAME.test(name) || IPV6.test(name)) && Number(port) <= 65_535;
  if (!isWellFormed || !isReadOneWay(request.url)) {
    throw new RequestError("misdirected_request", "the Host header must be the name of this server");
  }
  if (allowedHosts !== null && !allowedHosts.has(name)) {
    throw new RequestError(
      "misdirected_request",
      "the Host header is none that this server answers to; add it with --allowed-host",
    );
  }
}

/** Whether the router's cut and the URL's own grammar give one path. */
function isReadOneWay(url: string): boolean {
  if (!URL.canParse(url)) return false;
  const routed = url.indexOf("/", 11);
  return routed === url.indexOf("/", url.indexOf("://") + 3);
}

async function headOf(request: Request, handle: EdgeOptions["handle"]): Promise<Response> {
  const { status, headers } = await handle(new Request(request.url, { headers: request.headers }));
  return new Response(null, { status, headers });
}
