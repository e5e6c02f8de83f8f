/** What every kind of remote source offers: a listing of one version, and files of it. */
import { LorikeetError } from "../core/errors.ts";
import { type RemoteFile, retryAfterMs } from "./download.ts";
import type { SourceKind } from "./needed-files.ts";

export interface ListedFile extends RemoteFile {
  /** Under which the cache keeps the content: its hash where the source gives one, else `v-` and a hash of where and when. */
  readonly key: string;
}

export interface Listing {
  /** 40 to 64 hex digits: a commit, or a hash over what the server says of the files. */
  readonly version: string;
  /** By name, in the folder that is meant. */
  readonly files: ReadonlyMap<string, ListedFile>;
}

export interface Remote {
  /** For messages and logs; holds no secret. */
  readonly shown: string;
  /** Folder of the cache. */
  readonly cacheFolder: string;
  /** What was asked for: a branch, a tag or a commit; `latest` where a source has no versions of its own. */
  readonly revision: string;
  /** Folder inside a version, empty for all of it. */
  readonly folder: string;
  /** @throws {LorikeetError} `source_refused` or `source_unavailable` */
  list(kind: SourceKind, signal: AbortSignal): Promise<Listing>;
  /** A file that a listing did not have room or reason for; `null` where there is none. */
  find(name: string, signal: AbortSignal): Promise<ListedFile | null>;
  /** Asks for a file's bytes. */
  request(url: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response>;
  /** What an answer that is no file means; `null` for one that passes by itself. */
  explain(response: Response, file: string): Promise<LorikeetError | null>;
}

/** Statuses of a server that is busy or broken for now. */
export const isPassing = (status: number): boolean => status === 408 || status === 425 || status === 429 || status >= 500;

export interface Patience {
  readonly sleep: (ms: number) => Promise<void>;
  /** Attempts in all. */
  readonly maxAttempts: number;
  /** Wait before the second, doubled before each further one, where a server does not say. */
  readonly backoffMs: number;
  /** Longest wait that a server may ask for. */
  readonly maxWaitMs: number;
}

/**
 * Asks again where a server is busy or a connection fails.
 *
 * @returns the first answer that does not pass by itself, or the last that was had
 * @throws what the last attempt threw
 */
export async function askPatiently(ask: () => Promise<Response>, { sleep, maxAttempts, backoffMs, maxWaitMs }: Patience): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    const isLast = attempt >= maxAttempts;
    let waitMs = backoffMs * 2 ** (attempt - 1);
    try {
      const response = await ask();
      if (!isPassing(response.status) || isLast) return response;
      waitMs = retryAfterMs(response.headers, Date.now()) ?? waitMs;
      if (waitMs > maxWaitMs) return response;
      await response.body?.cancel();
    } catch (thrown) {
      if (isLast || thrown instanceof LorikeetError) throw thrown;
    }
    await sleep(waitMs);
  }
}

export const sha256Hex = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");

/**
 * A whole answer, counted while it is read.
 *
 * @throws {Error} for one that is larger
 */
export async function readBody(response: Response, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let numBytes = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    numBytes += chunk.length;
    if (numBytes > maxBytes) throw new Error(`the answer has more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
