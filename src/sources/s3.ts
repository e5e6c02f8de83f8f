/** Folders and archives in S3 or what speaks its protocol. Credentials, region and endpoint come from the usual variables, which Bun's client reads. */
import { join } from "node:path";
import { S3Client } from "bun";
import type { LorikeetError } from "../core/errors.ts";
import { type FetchMeans, type FetchPolicy, guardedFetch } from "./guarded-fetch.ts";
import { isPassing, type ListedFile, type Listing, type Remote, sha256Hex } from "./remote.ts";
import { refusedSource, unavailableSource } from "./source-error.ts";
import type { SourceReference } from "./source-reference.ts";

/** Of a signed address, asked for anew at each attempt. */
const SIGNED_S = 3600;
const MAX_OBJECTS = 1000;

export class S3Remote implements Remote {
  readonly shown: string;
  readonly cacheFolder: string;
  readonly revision = "latest";
  readonly folder = "";
  readonly #client: S3Client;
  readonly #prefix: string;
  readonly #means: FetchMeans;

  constructor({ bucket, prefix }: Extract<SourceReference, { readonly kind: "s3" }>, cache: string, means: FetchMeans, options: Bun.S3Options = {}) {
    this.shown = `s3://${bucket}/${prefix}`;
    this.cacheFolder = join(cache, sha256Hex(this.shown));
    this.#client = new S3Client({ ...options, bucket });
    this.#prefix = prefix;
    this.#means = means;
  }

  async list(): Promise<Listing> {
    const isArchive = this.#prefix.endsWith(".nemo");
    const prefix = isArchive ? this.#prefix : `${this.#prefix}/`;
    const found = await this.#client.list({ prefix, maxKeys: MAX_OBJECTS }).catch((thrown: unknown) => {
      throw this.#problem(thrown);
    });
    const files = new Map<string, ListedFile>();
    for (const { key, size, eTag } of found.contents ?? []) {
      const name = isArchive ? key.split("/").at(-1)! : key.slice(prefix.length);
      if (name === "" || name.includes("/") || (isArchive && key !== this.#prefix)) continue;
      files.set(name, {
        name,
        url: () => this.#client.presign(key, { expiresIn: SIGNED_S, method: "GET" }),
        numBytes: size ?? null,
        digest: null,
        key: `v-${sha256Hex(`${key}\n${eTag}\n${size}`)}`,
      });
    }
    const said = [...files.values()].map(({ name, key }) => `${name} ${key}`).sort();
    return { version: sha256Hex(said.join("\n")), files };
  }

  async find(): Promise<null> {
    return null;
  }

  /** The address was made here, so its host is the configured one. */
  request(url: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    const policy: FetchPolicy = { trusted: [new URL(url).origin], mayLeave: false, setting: "S3_ENDPOINT" };
    return guardedFetch(url, policy, { headers, signal }, this.#means);
  }

  async explain(response: Response, file: string): Promise<LorikeetError | null> {
    if (isPassing(response.status)) return null;
    await response.body?.cancel();
    if (response.status === 404) return refusedSource(`${this.shown} does not hold ${file}`);
    return refusedSource(`S3 answers ${response.status} for ${file} of ${this.shown}; ${CREDENTIALS}`);
  }

  #problem(thrown: unknown): LorikeetError {
    const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "unknown";
    if (code === "NoSuchBucket" || code === "NoSuchKey") return refusedSource(`${this.shown} does not exist (${code})`, thrown);
    if (/credentials|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId|Forbidden|ExpiredToken/i.test(code)) {
      return refusedSource(`${this.shown} cannot be listed (${code}); ${CREDENTIALS}`, thrown);
    }
    return unavailableSource(`${this.shown} cannot be listed (${code}); check S3_ENDPOINT and the network, and try again`, thrown);
  }
}

const CREDENTIALS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and S3_ENDPOINT for another service than Amazon's";
