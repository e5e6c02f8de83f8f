/**
 * Repositories of a Hugging Face hub, or of a server that speaks as one.
 *
 * @source https://huggingface.co/docs/hub/api (models, revision, resolve); error headers as huggingface_hub, utils/_http.py reads them
 */
import { join } from "node:path";
import type { LorikeetError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { isJsonObject, type JsonValue, parseJsonObject } from "../formats/json.ts";
import { type FetchMeans, type FetchPolicy, guardedFetch } from "./guarded-fetch.ts";
import { isPassing, type ListedFile, type Listing, readBody, type Remote } from "./remote.ts";
import { refusedSource, unavailableSource } from "./source-error.ts";
import type { SourceReference } from "./source-reference.ts";

export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | null;
  /** Folder of the hub's own cache. */
  readonly cache: string;
}

const MAX_LISTING_BYTES = 64 * 2 ** 20;
const COMMIT = /^[0-9a-f]{40}$/;

type HubReference = Extract<SourceReference, { readonly kind: "hub" }>;

export class HubRemote implements Remote {
  readonly shown: string;
  readonly cacheFolder: string;
  readonly revision: string;
  readonly folder: string;
  readonly #repository: string;
  readonly #settings: HubSettings;
  readonly #policy: FetchPolicy;
  readonly #means: FetchMeans;

  /** @param trusted further origins that the hub may redirect to, whatever their addresses */
  constructor(reference: HubReference, settings: HubSettings, trusted: readonly string[], means: FetchMeans) {
    this.#repository = reference.repository;
    this.revision = reference.revision;
    this.folder = reference.folder;
    this.shown = `${reference.repository}${reference.folder === "" ? "" : `/${reference.folder}`}`;
    this.cacheFolder = join(settings.cache, `models--${reference.repository.replace("/", "--")}`);
    this.#settings = settings;
    // The hub keeps large files elsewhere, under addresses that change.
    this.#policy = { trusted: [new URL(settings.endpoint).origin, ...trusted], mayLeave: true, setting: "--source-host" };
    this.#means = means;
  }

  async list(_kind: unknown, signal: AbortSignal): Promise<Listing> {
    const { endpoint } = this.#settings;
    const url = `${endpoint}/api/models/${this.#repository}/revision/${encodeURIComponent(this.revision)}?blobs=true`;
    const response = await this.request(url, {}, signal);
    if (response.status !== 200) {
      throw (await this.explain(response, "")) ?? unavailableSource(`the hub answers ${response.status} for ${this.shown}; try again later`);
    }
    try {
      return this.#listing(await readBody(response, MAX_LISTING_BYTES));
    } catch (thrown) {
      if (!(thrown instanceof FormatError)) throw thrown;
      throw refusedSource(`${endpoint} lists ${this.shown} in a form that cannot be read: ${thrown.message}`, thrown);
    }
  }

  async find(): Promise<null> {
    return null;
  }

  request(url: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    const { token } = this.#settings;
    return guardedFetch(url, this.#policy, { headers, authorization: token === null ? null : `Bearer ${token}`, signal }, this.#means);
  }

  async explain(response: Response, file: string): Promise<LorikeetError | null> {
    const { status, headers } = response;
    if (isPassing(status)) return null;
    const code = headers.get("x-error-code");
    await response.body?.cancel();
    const { endpoint, token } = this.#settings;
    if (code === "GatedRepo" || status === 403) {
      return refusedSource(
        `${this.#repository} is gated: accept its terms at ${endpoint}/${this.#repository}, ` +
          (token === null ? "then set HF_TOKEN to a token of that account" : "with the account of HF_TOKEN, whose token must be allowed to read it"),
      );
    }
    if (status === 404 && code === "RevisionNotFound") return refusedSource(`${this.#repository} has no revision ${this.revision}; give one that it has, as ${this.#repository}@main`);
    if (status === 401 || status === 404) {
      const missing = file === "" || code === "RepoNotFound" ? `${this.#repository} is not on ${endpoint}, or is private` : `${this.#repository} does not hold ${file}`;
      return refusedSource(`${missing}; check its name${token === null ? ", and set HF_TOKEN where it is private" : ", and that HF_TOKEN may read it"}`);
    }
    return refusedSource(`the hub answers ${status} for ${this.shown}`);
  }

  #listing(bytes: Uint8Array): Listing {
    const json = parseJsonObject(bytes, { maxBytes: MAX_LISTING_BYTES, maxDepth: 32 });
    const { sha, siblings } = json;
    if (typeof sha !== "string" || !COMMIT.test(sha)) throw new FormatError("sha must be a commit of 40 hex digits");
    if (!Array.isArray(siblings)) throw new FormatError("siblings must be a list");
    const prefix = this.folder === "" ? "" : `${this.folder}/`;
    const files = new Map<string, ListedFile>();
    for (const sibling of siblings as readonly JsonValue[]) {
      const path = isJsonObject(sibling) ? sibling["rfilename"] : undefined;
      if (typeof path !== "string" || !path.startsWith(prefix)) continue;
      const name = path.slice(prefix.length);
      if (!name.includes("/")) files.set(name, this.#file(name, path, sha, sibling));
    }
    return { version: sha, files };
  }

  #file(name: string, path: string, commit: string, sibling: JsonValue): ListedFile {
    if (!isJsonObject(sibling)) throw new FormatError("siblings must hold objects");
    const lfs = isJsonObject(sibling["lfs"]) ? sibling["lfs"] : null;
    const numBytes = lfs?.["size"] ?? sibling["size"];
    const [kind, hex] = lfs === null ? (["git", sibling["blobId"]] as const) : (["sha256", lfs["sha256"]] as const);
    const isHex = typeof hex === "string" && (kind === "git" ? COMMIT : /^[0-9a-f]{64}$/).test(hex);
    if (typeof numBytes !== "number" || !Number.isSafeInteger(numBytes) || numBytes < 0 || !isHex) {
      throw new FormatError(`the entry of ${path.slice(0, 100)} has no size and hash`);
    }
    const url = `${this.#settings.endpoint}/${this.#repository}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;
    return { name, url: () => url, numBytes, digest: { kind, hex }, key: hex };
  }
}
