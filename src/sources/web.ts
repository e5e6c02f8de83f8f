/** A folder or an archive behind https, on a host that the operator allows. */
import { join } from "node:path";
import type { LorikeetError } from "../core/errors.ts";
import { type FetchMeans, type FetchPolicy, guardedFetch } from "./guarded-fetch.ts";
import { CANDIDATES, type SourceKind } from "./needed-files.ts";
import { askPatiently, isPassing, type ListedFile, type Listing, type Patience, type Remote, sha256Hex } from "./remote.ts";
import { refusedSource, unavailableSource } from "./source-error.ts";

export class WebRemote implements Remote {
  readonly shown: string;
  readonly cacheFolder: string;
  readonly revision = "latest";
  readonly folder = "";
  readonly #url: string;
  readonly #policy: FetchPolicy;
  readonly #means: FetchMeans;
  readonly #patience: Patience;

  /** @param trusted origins that may be downloaded from; a redirect stays among them */
  constructor(url: string, cache: string, trusted: readonly string[], means: FetchMeans, patience: Patience) {
    this.#url = url;
    this.shown = url;
    this.cacheFolder = join(cache, sha256Hex(url));
    this.#policy = { trusted, mayLeave: false, setting: "--source-host" };
    this.#means = means;
    this.#patience = patience;
  }

  /** A web server lists nothing: what may be there is asked for by name. */
  async list(kind: SourceKind, signal: AbortSignal): Promise<Listing> {
    const files = new Map<string, ListedFile>();
    const ask = async (name: string): Promise<boolean> => {
      const file = await this.find(name, signal);
      if (file !== null) files.set(name, file);
      return file !== null;
    };
    const archive = /[^/]+\.nemo$/.exec(this.#url)?.[0];
    if (archive !== undefined) await ask(archive);
    else {
      const { required, optional, weights } = CANDIDATES[kind];
      await Promise.all([...required, ...optional].map(ask));
      for (const name of weights) if (await ask(name)) break;
    }
    const said = [...files.values()].map(({ name, key }) => `${name} ${key}`).sort();
    return { version: sha256Hex(said.join("\n")), files };
  }

  async find(name: string, signal: AbortSignal): Promise<ListedFile | null> {
    const url = this.#url.endsWith(".nemo") ? this.#url : `${this.#url}/${encodeURIComponent(name)}`;
    const response = await askPatiently(() => guardedFetch(url, this.#policy, { method: "HEAD", signal }, this.#means), this.#patience);
    await response.body?.cancel();
    const { status, headers } = response;
    if (status === 404 || status === 410) return null;
    if (status !== 200) throw (await this.explain(response, name)) ?? unavailableSource(`${this.shown} answers ${status}; try again later`);
    const length = headers.get("content-length");
    const sha256 = digestOf(headers);
    // Without either nobody can tell whether the content changed, so that it is read anew.
    const validator = headers.get("etag") ?? headers.get("last-modified") ?? crypto.randomUUID();
    return {
      name,
      url: () => url,
      numBytes: length !== null && /^\d{1,15}$/.test(length) ? Number(length) : null,
      digest: sha256 === null ? null : { kind: "sha256", hex: sha256 },
      key: sha256 ?? `v-${sha256Hex(`${url}\n${validator}\n${length}`)}`,
    };
  }

  request(url: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    return guardedFetch(url, this.#policy, { headers, signal }, this.#means);
  }

  async explain(response: Response, file: string): Promise<LorikeetError | null> {
    if (isPassing(response.status)) return null;
    await response.body?.cancel();
    const what = response.status === 404 ? "does not hold" : `answers ${response.status} for`;
    return refusedSource(`${this.shown} ${what} ${file}${response.status === 401 || response.status === 403 ? "; sources on the web are read without a login" : ""}`);
  }
}

/**
 * SHA-256 of the content, where the server gives it.
 *
 * @source RFC 9530, Repr-Digest; `Digest` of RFC 3230 before it
 */
function digestOf(headers: Headers): string | null {
  const value = headers.get("repr-digest") ?? headers.get("digest") ?? "";
  const match = /(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=):?/i.exec(value);
  return match === null ? null : Buffer.from(match[1]!, "base64").toString("hex");
}
