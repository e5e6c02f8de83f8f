/** Models and adapters from wherever they are, as directories and files on this machine. */
import { existsSync } from "node:fs";
import { mkdir, readFile, statfs } from "node:fs/promises";
import { join } from "node:path";
import { CapacityError, LorikeetError } from "../core/errors.ts";
import { FormatError } from "../formats/format-error.ts";
import type { AllowedSources } from "./allowed-sources.ts";
import { DOWNLOAD_LIMITS, downloadFile, type DownloadLimits } from "./download.ts";
import { type FetchMeans, systemMeans } from "./guarded-fetch.ts";
import { HubRemote } from "./hub.ts";
import { INDEX_LIMITS, maxBytesOf, neededFiles, shardsOf, type SourceKind } from "./needed-files.ts";
import type { ListedFile, Listing, Remote } from "./remote.ts";
import { S3Remote } from "./s3.ts";
import type { SourceSettings } from "./settings.ts";
import { SnapshotCache } from "./snapshot-cache.ts";
import { refusedSource, unavailableSource, untrustedHost } from "./source-error.ts";
import { parseSource, type RemoteReference, sourceName, writeSource } from "./source-reference.ts";
import { Turns } from "./turns.ts";
import { WebRemote } from "./web.ts";

export interface FetchedSource {
  /** Of the directory or archive on this machine. */
  readonly path: string;
  /** `owner/name@commit`, or what tells one content of another source from the next; `null` for what lies on this machine anyway. */
  readonly origin: string | null;
  /** Of a model on a hub its whole id, else the last part of the source's name. */
  readonly name: string;
}

/** Of one file under way. */
export interface SourceProgress {
  readonly source: string;
  readonly file: string;
  readonly numBytes: number;
  /** `null` where nobody says. */
  readonly totalBytes: number | null;
  readonly isDone: boolean;
}

export interface SourceHooks {
  readonly onProgress: (progress: SourceProgress) => void;
  /** A sentence for the operator. */
  readonly onNote: (note: string) => void;
}

/** Of one call. */
export interface FetchOptions {
  /** Ends it early; what was read is kept for another time. */
  readonly signal?: AbortSignal;
  /** Hears of its bytes: those that are here, and those of all files that were begun, `null` where nobody says. */
  readonly onProgress?: (progress: Pick<SourceProgress, "numBytes" | "totalBytes">) => void;
}

/** One source under way. */
interface Job {
  readonly remote: Remote;
  readonly cache: SnapshotCache;
  readonly kind: SourceKind;
  /** Says that it took too long. */
  readonly deadline: AbortSignal;
  /** The deadline, or whoever asked. */
  readonly signal: AbortSignal;
  readonly tell: (progress: SourceProgress) => void;
}

export interface SourceMeans extends FetchMeans {
  readonly sleep: (ms: number) => Promise<void>;
  readonly limits: Omit<DownloadLimits, "maxBytes">;
  /** Files read at once. */
  readonly maxDownloads: number;
  /** Of S3 in place of the environment's. */
  readonly s3?: Bun.S3Options;
}

const COMMIT = /^[0-9a-f]{40}$/;
/** Where a listing fails, a cache may do without it, so that less patience is better. */
const LISTING_ATTEMPTS = 3;
/** Left on the disk for everybody else. */
const SPARE_BYTES = 256 * 2 ** 20;
/** Sources asked at once for what they hold. */
const MAX_LISTINGS = 8;

export class Sources {
  readonly #settings: SourceSettings;
  readonly #hooks: SourceHooks;
  readonly #means: SourceMeans;
  readonly #turns: Turns;
  readonly #listings = new Turns(MAX_LISTINGS);

  constructor(settings: SourceSettings, hooks: SourceHooks, means: Partial<SourceMeans> = {}) {
    this.#settings = settings;
    this.#hooks = hooks;
    this.#means = { ...systemMeans(process.env), sleep: (ms) => Bun.sleep(ms), limits: DOWNLOAD_LIMITS, maxDownloads: 4, ...means };
    this.#turns = new Turns(this.#means.maxDownloads);
  }

  /**
   * Finds a source; downloads what it needs of it and does not have.
   *
   * @throws {ConfigError} `config_invalid`, `source_refused`; {CapacityError} `source_unavailable`
   */
  async fetch(text: string, kind: SourceKind, options: FetchOptions = {}): Promise<FetchedSource> {
    const reference = parseSource(text, existsSync);
    if (reference.kind === "local") return { path: text, origin: null, name: text };
    try {
      return await this.#fetch(reference, kind, options);
    } catch (thrown) {
      // A path with a typing error looks like a repository.
      if (!(thrown instanceof LorikeetError) || text.includes("://")) throw thrown;
      const message = `${text} is not a path on this machine; as a repository: ${thrown.message}`;
      throw thrown instanceof CapacityError ? unavailableSource(message, thrown) : refusedSource(message, thrown);
    }
  }

  /**
   * What can be said of an adapter without asking anybody.
   *
   * @returns what it is called where nobody says; `null` for what lies on this machine
   * @throws {ConfigError} `config_invalid` for a spelling that means nothing, `source_refused` for a host that may not be asked
   */
  nameOfRemote(text: string): string | null {
    const reference = parseSource(text, existsSync);
    if (reference.kind === "local") return null;
    const origin = reference.kind === "web" ? new URL(reference.url).origin : null;
    if (origin !== null && !this.#settings.trusted.includes(origin)) throw untrustedHost(origin, "--source-host");
    return sourceName(reference);
  }

  /**
   * An adapter that a request names, as `fetch` takes it whatever lies on this machine.
   *
   * @returns `null` for what is no source, or none that is allowed: nobody learns what there is
   */
  allowedSource(text: string, isAllowed: AllowedSources): string | null {
    const reference = remoteOf(text);
    return reference !== null && isAllowed(reference) ? writeSource(reference) : null;
  }

  async #fetch(reference: RemoteReference, kind: SourceKind, { signal, onProgress }: FetchOptions): Promise<FetchedSource> {
    const remote = this.#remote(reference);
    const name = kind === "model" && reference.kind === "hub" ? reference.repository : sourceName(reference);
    const cache = new SnapshotCache(remote.cacheFolder);
    const deadline = AbortSignal.timeout(this.#settings.timeoutMs);
    const files = new Map<string, SourceProgress>();
    const tell = (progress: SourceProgress): void => {
      this.#hooks.onProgress(progress);
      files.set(progress.file, progress);
      onProgress?.(totalOf([...files.values()]));
    };
    const job = { remote, cache, kind, deadline, signal: signal === undefined ? deadline : AbortSignal.any([deadline, signal]), tell };
    const version = (await this.#cachedVersion(job)) ?? (await this.#download(job));
    const folder = join(cache.snapshot(version), remote.folder);
    const isArchive = reference.kind !== "hub" && (reference.kind === "s3" ? reference.prefix : reference.url).endsWith(".nemo");
    return { path: isArchive ? join(folder, `${name}.nemo`) : folder, origin: `${remote.shown}@${version}`, name };
  }

  #remote(reference: RemoteReference): Remote {
    const { hub, cache, trusted } = this.#settings;
    const patience = { ...this.#means.limits, sleep: this.#means.sleep, maxAttempts: LISTING_ATTEMPTS };
    switch (reference.kind) {
      case "hub":
        return new HubRemote(reference, hub, trusted, this.#means, patience);
      case "s3":
        return new S3Remote(reference, cache, this.#means, this.#means.s3);
      case "web":
        return new WebRemote(reference.url, cache, trusted, this.#means, patience);
    }
  }

  /** @returns what needs no network: a commit that is whole, or what is there when the network may not be used */
  async #cachedVersion(job: Job): Promise<string | null> {
    const { remote, cache } = job;
    const isPinned = COMMIT.test(remote.revision);
    if (!isPinned && !this.#settings.isOffline) return null;
    const version = isPinned ? remote.revision : await cache.readRef(remote.revision);
    if (version !== null && (await this.#isWhole(job, version))) return version;
    if (!this.#settings.isOffline) return null;
    throw refusedSource(`${remote.shown}@${remote.revision} is not in the cache, and HF_HUB_OFFLINE is set; unset it once to download it`);
  }

  async #isWhole({ remote, cache, kind }: Job, version: string): Promise<boolean> {
    const prefix = remote.folder === "" ? "" : `${remote.folder}/`;
    const names = (await cache.files(version)).filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    const needed = neededFiles(kind, new Set(names));
    if (needed.missing !== null) return false;
    const files = [...needed.files];
    if (needed.index !== null) files.push(...shardsOf(await readFile(join(cache.snapshot(version), prefix, needed.index))));
    if (!files.every((name) => names.includes(name))) return false;
    for (const name of files) {
      const key = await cache.keyOf(version, prefix + name);
      if (key !== null && kind === "adapter" && !(await cache.isIntact(key))) {
        await cache.removeBlob(key);
        this.#hooks.onNote(`${name} of ${remote.shown} in the cache is damaged and is read anew`);
        return false;
      }
    }
    return true;
  }

  async #download(job: Job): Promise<string> {
    const { remote, cache, kind, signal } = job;
    let listing: Listing;
    try {
      listing = await this.#listings.run(() => orAborted(remote.list(kind, signal), signal)).catch((thrown: unknown) => {
        throw this.#failure(job, thrown);
      });
    } catch (thrown) {
      // What a name stood for last is better than nothing, and is said.
      const version = thrown instanceof CapacityError ? await cache.readRef(remote.revision) : null;
      if (version === null || !(await this.#isWhole(job, version))) throw thrown;
      this.#hooks.onNote(`${remote.shown} cannot be asked (${(thrown as CapacityError).message}); serving ${version} of the cache`);
      return version;
    }
    const { version } = listing;
    await this.#fill(job, listing).catch((thrown: unknown) => {
      throw this.#failure(job, thrown);
    });
    if (remote.revision !== version) await cache.writeRef(remote.revision, version);
    return version;
  }

  async #fill(job: Job, listing: Listing): Promise<void> {
    const { remote, cache, kind } = job;
    const needed = neededFiles(kind, new Set(listing.files.keys()));
    if (needed.missing !== null) {
      const held = [...listing.files.keys()].filter((name) => /^[\w. -]{1,100}$/.test(name)).slice(0, 8).join(", ");
      throw refusedSource(`${remote.shown} holds no ${kind} that is served: it has no ${needed.missing}; ${held === "" ? "it holds nothing" : `it holds ${held}`}`);
    }
    // One failure ends the others, whose bytes are kept.
    const others = new AbortController();
    const signal = AbortSignal.any([job.signal, others.signal]);
    const readAll = async (files: readonly ListedFile[]): Promise<void> => {
      await checkRoom(remote, cache, files);
      const readings = files.map((file) => this.#turns.run(() => this.#read({ ...job, signal }, listing.version, file)));
      try {
        await Promise.all(readings);
      } catch (thrown) {
        others.abort(thrown);
        await Promise.allSettled(readings);
        throw thrown;
      }
    };
    await readAll(needed.files.map((name) => listing.files.get(name)!));
    if (needed.index === null) return;
    const index = await readFile(join(cache.snapshot(listing.version), remote.folder, needed.index));
    const shards = await Promise.all(
      shardsIn(remote, needed.index, index).map(async (name) => {
        const file = listing.files.get(name) ?? (await remote.find(name, job.signal));
        if (file !== null) return file;
        throw refusedSource(`${remote.shown} does not hold ${name}, which its ${needed.index} names`);
      }),
    );
    await readAll(shards);
  }

  async #read({ remote, cache, kind, signal, tell }: Job, version: string, file: ListedFile): Promise<void> {
    signal.throwIfAborted();
    const { name, key, numBytes: totalBytes } = file;
    const path = remote.folder === "" ? name : `${remote.folder}/${name}`;
    const isThere = (await cache.has(key, totalBytes)) && (kind === "model" || (await cache.isIntact(key)));
    if (!isThere) {
      const part = await cache.claimPart(key);
      const progress = { source: remote.shown, file: name, totalBytes };
      try {
        const { numBytes } = await downloadFile(file, part, { ...this.#means.limits, maxBytes: maxBytesOf(kind, name) }, {
          request: (url, headers, own) => remote.request(url, headers, own),
          explain: (response) => remote.explain(response, name),
          // A sibling that failed, or the time limit, ends a wait too.
          sleep: (ms) => orAborted(this.#means.sleep(ms), signal),
          nowMs: Date.now,
          signal,
          onProgress: (soFar) => tell({ ...progress, numBytes: soFar, isDone: false }),
        });
        await cache.finishPart(key, part);
        tell({ ...progress, numBytes, isDone: true });
      } catch (thrown) {
        await cache.leavePart(key, part);
        throw thrown;
      }
    }
    await cache.link(version, path, key);
  }

  /** Connections fail in many ways; a person is told which source, and what to do. */
  #failure({ remote, deadline }: Job, thrown: unknown): LorikeetError {
    if (deadline.aborted) return unavailableSource(`${remote.shown} took longer than ${this.#settings.timeoutMs / 1000} s; raise download_timeout_s, or start again: what was read is kept`, thrown);
    if (thrown instanceof LorikeetError) return thrown;
    const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "no answer";
    if (code === "ENOSPC" || code === "EACCES" || code === "EROFS") return refusedSource(`${remote.shown} cannot be kept under ${remote.cacheFolder}: ${code}; free or name another folder (HF_HUB_CACHE, LORIKEET_CACHE)`, thrown);
    return unavailableSource(`${remote.shown} cannot be reached (${code}); check the network, or HF_ENDPOINT where another hub is meant`, thrown);
  }
}

function totalOf(files: readonly SourceProgress[]): Pick<SourceProgress, "numBytes" | "totalBytes"> {
  let numBytes = 0;
  let totalBytes: number | null = 0;
  for (const file of files) {
    numBytes += file.numBytes;
    totalBytes = totalBytes === null || file.totalBytes === null ? null : totalBytes + file.totalBytes;
  }
  return { numBytes, totalBytes };
}

/** Paths of this machine are judged elsewhere, so that none is looked at here. */
function remoteOf(text: string): RemoteReference | null {
  try {
    const reference = parseSource(text, () => false);
    return reference.kind === "local" ? null : reference;
  } catch (thrown) {
    if (thrown instanceof LorikeetError) return null;
    throw thrown;
  }
}

function shardsIn(remote: Remote, name: string, index: Uint8Array): string[] {
  try {
    return shardsOf(index.subarray(0, INDEX_LIMITS.maxBytes + 1));
  } catch (thrown) {
    if (!(thrown instanceof FormatError)) throw thrown;
    throw refusedSource(`${name} of ${remote.shown}: ${thrown.message}`, thrown);
  }
}

/** Before the first byte, so that a disk is not filled for nothing. */
async function checkRoom(remote: Remote, cache: SnapshotCache, files: readonly ListedFile[]): Promise<void> {
  let missingBytes = 0;
  for (const file of files) if (!(await cache.has(file.key))) missingBytes += file.numBytes ?? 0;
  await mkdir(cache.folder, { recursive: true });
  const { bavail, bsize } = await statfs(cache.folder);
  if (missingBytes + SPARE_BYTES <= bavail * bsize) return;
  throw refusedSource(
    `${remote.shown} needs ${missingBytes} bytes under ${cache.folder}, where ${bavail * bsize} are free; make room, or name another folder (HF_HUB_CACHE, LORIKEET_CACHE)`,
  );
}

/** For calls that take no signal. */
function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", onAbort));
}
