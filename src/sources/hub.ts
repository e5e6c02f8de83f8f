/**
 * Repositories of a Hugging Face hub, or of a server that speaks as one.
 *
 * @source https://huggingface.co/docs/hub/api (models, revision, resolve); error headers as huggingface_hub, utils/_http.py reads them
 */
import { join } from "node:path";
import type { LorikeetError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import { isJsonObject, type JsonValue, parseJson } from "../formats/json.ts";
import { type FetchMeans, type FetchPolicy, guardedFetch } from "./guarded-fetch.ts";
import { askPatiently, isPassing, type ListedFile, type Listing, type Patience, readBody, type Remote } from "./remote.ts";
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
  readonly #patience: Patience;

  /** @param trusted further origins that the hub may redirect to, whatever their addresses */
  constructor(reference: HubReference, settings: HubSettings, trusted: readonly string[], means: FetchMeans, patience: Patience) {
    this.#repository = reference.repository;
    this.revision = reference.revision;
    this.folder = reference.folder;
    this.shown = `${reference.repository}${reference.folder === "" ? "" : `/${reference.folder}`}`;
    this.cacheFolder = join(settings.cache, `models--${reference.repository.replace("/", "--")}`);
    this.#settings = settings;
    // The hub keeps large files elsewhere, under addresses that change.
    this.#policy = { trusted: [new URL(settings.endpoint).origin, ...trusted], mayLeave: true, setting: "--source-host" };
    this.#means = means;
    this.#patience = patience;
  }

  async list(_kind: unknown, signal: AbortSignal): Promise<Listing> {
    const { endpoint } = this.#settings;
    const api = `${endpoint}/api/models/${this.#repository}`;
    const ask = async (url: string): Promise<JsonValue> => {
      const response = await askPatiently(() => this.request(url, {}, signal), this.#patience);
      if (response.status === 200) return parseJson(await readBody(response, MAX_LISTING_BYTES), { maxBytes: MAX_LISTING_BYTES, maxDepth: 32 });
      throw (await this.explain(response, "")) ?? unavailableSource(`the hub answers ${response.status} for ${this.shown}; try again later`);
    };
    try {
      const revision = await ask(`${api}/revision/${encodeURIComponent(this.revision)}?blobs=true`);
      if (!isJsonObject(revision)) throw new FormatError("a revision must be an object");
      const { sha: version, siblings } = revision;
      if (typeof version !== "string" || !COMMIT.test(version)) throw new FormatError("sha must be a commit of 40 hex digits");
      if (!Array.isArray(siblings)) throw new FormatError("siblings must be a list");
      const entries = (siblings as readonly JsonValue[]).map(ofSibling);
      if (entries.every((entry) => entry === null || entry.key !== null)) return { version, files: this.#files(version, entries) };
      // Servers that stand in for the hub may leave sizes and hashes to the other listing.
      const tree = await ask(`${api}/tree/${version}${this.folder === "" ? "" : `/${this.folder}`}`);
      if (!Array.isArray(tree)) throw new FormatError("a tree must be a list");
      return { version, files: this.#files(version, (tree as readonly JsonValue[]).map(ofTree)) };
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

  /** Files of the folder that is meant. @throws {FormatError} for one without size and hash */
  #files(commit: string, entries: readonly (Entry | null)[]): Map<string, ListedFile> {
    const prefix = this.folder === "" ? "" : `${this.folder}/`;
    const files = new Map<string, ListedFile>();
    for (const entry of entries) {
      if (entry === null || !entry.path.startsWith(prefix) || entry.path.slice(prefix.length).includes("/")) continue;
      const { path, numBytes, kind, key } = entry;
      if (key === null) throw new FormatError(`the entry of ${path.slice(0, 100)} has no size and hash`);
      const url = `${this.#settings.endpoint}/${this.#repository}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`;
      const name = path.slice(prefix.length);
      files.set(name, { name, url: () => url, numBytes, digest: { kind, hex: key }, key });
    }
    return files;
  }
}

/** One file of a listing. */
interface Entry {
  readonly path: string;
  readonly numBytes: number;
  readonly kind: "sha256" | "git";
  /** The hash; `null` where the listing has none, or no size. */
  readonly key: string | null;
}

/** @source hub API, `siblings` of a revision with `blobs=true` */
function ofSibling(sibling: JsonValue): Entry | null {
  if (!isJsonObject(sibling)) return null;
  const lfs = isJsonObject(sibling["lfs"]) ? sibling["lfs"] : null;
  return entryOf(sibling["rfilename"], lfs?.["size"] ?? sibling["size"], lfs === null ? sibling["blobId"] : lfs["sha256"], lfs !== null);
}

/** @source hub API, entries of a tree */
function ofTree(entry: JsonValue): Entry | null {
  if (!isJsonObject(entry) || entry["type"] !== "file") return null;
  const lfs = isJsonObject(entry["lfs"]) ? entry["lfs"] : null;
  return entryOf(entry["path"], lfs?.["size"] ?? entry["size"], lfs === null ? entry["oid"] : lfs["oid"], lfs !== null);
}

function entryOf(path: JsonValue | undefined, size: JsonValue | undefined, hex: JsonValue | undefined, isLarge: boolean): Entry | null {
  if (typeof path !== "string") return null;
  const isHash = typeof hex === "string" && (isLarge ? /^[0-9a-f]{64}$/ : COMMIT).test(hex);
  const isSize = typeof size === "number" && Number.isSafeInteger(size) && size >= 0;
  return { path, numBytes: isSize ? size : 0, kind: isLarge ? "sha256" : "git", key: isHash && isSize ? hex : null };
}
