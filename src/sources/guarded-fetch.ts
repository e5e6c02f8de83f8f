/**
 * `fetch` for places that others may steer: every hop is judged before it is connected to.
 *
 * A name is resolved once, every address it has is judged, and the connection goes to the address that was judged, so that
 * a name cannot mean another machine a moment later. Redirects are followed here, one by one; what was given for the first origin
 * is never sent to another.
 */
import { lookup as systemLookup } from "node:dns/promises";
import { isIP } from "node:net";
import { isNeverAllowed, isPublic } from "./addresses.ts";
import { refusedSource, unavailableSource, untrustedHost } from "./source-error.ts";

export interface FetchPolicy {
  /** Origins, such as `https://huggingface.co`, that the operator named: they may have private addresses, and no TLS where they say http. */
  readonly trusted: readonly string[];
  /** Whether those may redirect to any public https origin, as the hub does to its storage. */
  readonly mayLeave: boolean;
  /** For messages: the setting that adds an origin. */
  readonly setting: string;
}

export interface FetchInput {
  readonly method?: "GET" | "HEAD";
  readonly headers?: Readonly<Record<string, string>>;
  /** For the first origin alone. */
  readonly authorization?: string | null;
  readonly signal: AbortSignal;
}

export interface FetchMeans {
  readonly fetch: (url: URL, init: BunFetchRequestInit) => Promise<Response>;
  /** All addresses of a host name. */
  readonly lookup: (host: string) => Promise<readonly string[]>;
  /** PEM of a certificate authority besides the system's. */
  readonly ca?: string;
  /** Of a proxy that resolves names itself; addresses of names are then its business. */
  readonly proxyFor: (url: URL) => string | null;
}

export const systemMeans = (env: Readonly<Record<string, string | undefined>>): FetchMeans => ({
  fetch: (url, init) => fetch(url, init),
  lookup: async (host) => (await systemLookup(host, { all: true })).map(({ address }) => address),
  proxyFor: (url) => {
    const name = url.protocol === "https:" ? "https_proxy" : "http_proxy";
    const exempt = (env["no_proxy"] ?? env["NO_PROXY"] ?? "").split(",").map((each) => each.trim().replace(/^\./, ""));
    const isExempt = exempt.some((each) => each === "*" || (each !== "" && (url.hostname === each || url.hostname.endsWith(`.${each}`))));
    return isExempt ? null : (env[name] ?? env[name.toUpperCase()] ?? null) || null;
  },
});

const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * @returns the first answer that is no redirect, its body unread
 * @throws {ConfigError} `source_refused` for a hop that may not be made; the system's error where a connection fails
 */
export async function guardedFetch(start: string, policy: FetchPolicy, input: FetchInput, means: FetchMeans): Promise<Response> {
  const first = new URL(start);
  let url = first;
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const response = await connect(url, policy, input, url.origin === first.origin ? (input.authorization ?? null) : null, means);
    const location = response.headers.get("location");
    if (!REDIRECTS.has(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = URL.parse(location, url.href);
    if (next === null) throw refusedSource(`${url.host} redirects to an address that cannot be read`);
    if (url.protocol === "https:" && next.protocol !== "https:") throw refusedSource(`${url.host} redirects to ${next.host} without TLS, which is not followed`);
    url = next;
  }
  throw refusedSource(`${first.host} redirects more than ${MAX_REDIRECTS} times`);
}

async function connect(url: URL, policy: FetchPolicy, input: FetchInput, authorization: string | null, means: FetchMeans): Promise<Response> {
  const address = await judge(url, policy, means);
  const target = new URL(url);
  if (address !== null) target.hostname = isIP(address) === 6 ? `[${address}]` : address;
  const isPinnedTls = address !== null && url.protocol === "https:";
  const name = url.hostname.replaceAll(/[[\]]/g, "");
  return means.fetch(target, {
    method: input.method ?? "GET",
    redirect: "manual",
    // Sizes, ranges and hashes are those of the bytes as stored.
    decompress: false,
    headers: { ...input.headers, host: url.host, "accept-encoding": "identity", ...(authorization === null ? {} : { authorization }) },
    signal: input.signal,
    tls: { ...(isPinnedTls && isIP(name) === 0 ? { serverName: name } : {}), ...(means.ca === undefined ? {} : { ca: means.ca }) },
  });
}

/** @returns the address to connect to; `null` where a proxy finds it */
async function judge(url: URL, { trusted, mayLeave, setting }: FetchPolicy, { lookup, proxyFor }: FetchMeans): Promise<string | null> {
  const isTrusted = trusted.includes(url.origin);
  if (url.username !== "" || url.password !== "") throw refusedSource(`${url.host} is named with a user or password, which is not sent`);
  if (!isTrusted && !(mayLeave && url.protocol === "https:")) throw untrustedHost(url.origin, setting);
  const host = url.hostname.replaceAll(/[[\]]/g, "");
  const isLiteral = isIP(host) !== 0;
  if (!isLiteral && proxyFor(url) !== null) return null;
  const addresses = isLiteral ? [host] : await lookup(host).catch((cause: unknown) => {
    throw unavailableSource(`the host ${host} is not found; check its name and the network`, cause);
  });
  if (addresses.length === 0) throw unavailableSource(`the host ${host} has no address`);
  const isAllowed = (address: string): boolean => (isTrusted ? !isNeverAllowed(address) : isPublic(address));
  if (!addresses.every(isAllowed)) {
    throw refusedSource(`${host} has an address that is not public, which is not connected to${isTrusted ? "" : `; add ${url.origin} with ${setting} where that is meant`}`);
  }
  // Machines without IPv6 are told of it all the same.
  return addresses.find((address) => isIP(address) === 4) ?? addresses[0]!;
}
