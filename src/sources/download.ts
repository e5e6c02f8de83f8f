/** One file from a server to the disk: resumed where it was cut, checked before it counts. */
import { open, type FileHandle } from "node:fs/promises";
import { LorikeetError } from "../core/errors.ts";
import { refusedSource, unavailableSource } from "./source-error.ts";

/** What a source says about a file before it is read. */
export interface RemoteFile {
  /** For messages and progress. */
  readonly name: string;
  /** Asked for anew at each attempt: signed addresses expire. */
  readonly url: () => string;
  /** `null` where the source does not say. */
  readonly numBytes: number | null;
  /** Hash that the bytes must have; `null` where the source gives none. `git` is SHA-1 over the object with its header. */
  readonly digest: { readonly kind: "sha256" | "git"; readonly hex: string } | null;
}

export interface DownloadLimits {
  /** Of one file whose size nobody says, and of any file. */
  readonly maxBytes: number;
  /** Longest silence of a server. */
  readonly idleMs: number;
  /** Attempts without a new byte before it fails. */
  readonly maxAttempts: number;
  /** Wait before the second attempt, doubled before each further one. */
  readonly backoffMs: number;
  /** Longest wait that a server may ask for. */
  readonly maxWaitMs: number;
}

export const DOWNLOAD_LIMITS: Omit<DownloadLimits, "maxBytes"> = { idleMs: 60_000, maxAttempts: 5, backoffMs: 500, maxWaitMs: 60_000 };

export interface DownloadMeans {
  /** @throws {LorikeetError} for what may not be asked; anything else counts as a failing connection */
  readonly request: (url: string, headers: Readonly<Record<string, string>>, signal: AbortSignal) => Promise<Response>;
  /** What an answer that is no file means to a person; `null` for one that passes by itself. */
  readonly explain: (response: Response, file: RemoteFile) => Promise<LorikeetError | null>;
  readonly sleep: (ms: number) => Promise<void>;
  readonly nowMs: () => number;
  /** Ends the download, for whatever reason it gives. */
  readonly signal: AbortSignal;
  /** Bytes on disk so far. */
  readonly onProgress: (numBytes: number) => void;
}

/** A connection that failed, an answer that was cut, a server that is busy: tried again. */
class Passing extends Error {
  readonly waitMs: number | null;
  constructor(message: string, waitMs: number | null = null, cause?: unknown) {
    super(message, { cause });
    this.waitMs = waitMs;
  }
}

/**
 * Fills the file at `path`, going on behind what it holds already where a hash can tell that it belongs together.
 *
 * @returns size and SHA-256 of the whole
 * @throws {ConfigError} `source_refused`, {CapacityError} `source_unavailable`; what was read stays at `path` for another time,
 *   unless it is wrong
 */
export async function downloadFile(file: RemoteFile, path: string, limits: DownloadLimits, means: DownloadMeans): Promise<{ numBytes: number; sha256: string }> {
  if (file.numBytes !== null && file.numBytes > limits.maxBytes) throw tooLarge(file, limits);
  const handle = await open(path, "a+");
  try {
    const part = await Part.resume(handle, file);
    let wrongOnce = false;
    for (let attempt = 1, furthest = part.numBytes; ; attempt++) {
      try {
        means.signal.throwIfAborted();
        await readOn(part, file, limits, means);
        const problem = part.problem();
        if (problem === null) break;
        await part.clear();
        if (wrongOnce) throw refusedSource(`${file.name} has ${problem}; it was read twice and cannot be trusted`);
        wrongOnce = true;
      } catch (thrown) {
        if (means.signal.aborted) throw means.signal.reason as Error;
        if (thrown instanceof LorikeetError) throw thrown;
        // Further than ever is a new start; the same way again is not.
        if (part.numBytes > furthest) attempt = 1;
        furthest = Math.max(furthest, part.numBytes);
        const waitMs = (thrown instanceof Passing ? thrown.waitMs : null) ?? limits.backoffMs * 2 ** (attempt - 1);
        if (waitMs > limits.maxWaitMs) throw unavailableSource(`${file.name}: the server asks to wait ${Math.ceil(waitMs / 1000)} s; try again then`, thrown);
        if (attempt >= limits.maxAttempts) throw unavailableSource(`${file.name} could not be read: ${reasonOf(thrown)} in ${attempt} attempts; try again, what was read is kept`, thrown);
        await means.sleep(waitMs);
      }
    }
    await handle.sync();
    return { numBytes: part.numBytes, sha256: part.sha256() };
  } finally {
    await handle.close();
  }
}

async function readOn(part: Part, file: RemoteFile, limits: DownloadLimits, means: DownloadMeans): Promise<void> {
  if (part.numBytes > 0 && part.numBytes === file.numBytes) return;
  const idle = new AbortController();
  let timer = setTimeout(() => idle.abort(), limits.idleMs);
  const awake = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => idle.abort(), limits.idleMs);
  };
  const signal = AbortSignal.any([means.signal, idle.signal]);
  let body: ReadableStreamDefaultReader<Uint8Array> | null = null;
  try {
    const headers: Record<string, string> = part.numBytes > 0 ? { range: `bytes=${part.numBytes}-` } : {};
    const response = await means.request(file.url(), headers, signal);
    const expected = await begin(response, part, file, means);
    if (expected !== null && expected > limits.maxBytes) throw tooLarge(file, limits);
    body = (response.body as ReadableStream<Uint8Array> | null)?.getReader() as ReadableStreamDefaultReader<Uint8Array> | null;
    while (body !== null) {
      const { done, value } = await body.read();
      if (done) break;
      awake();
      await part.append(value);
      if (part.numBytes > limits.maxBytes) throw tooLarge(file, limits);
      if (file.numBytes !== null && part.numBytes > file.numBytes) break;
      means.onProgress(part.numBytes);
    }
    if (expected !== null && part.numBytes < expected) throw new Passing(`it was cut at ${part.numBytes} of ${expected} bytes`);
  } catch (thrown) {
    if (idle.signal.aborted && !means.signal.aborted) throw new Passing(`the server was silent for ${limits.idleMs / 1000} s`, null, thrown);
    throw thrown;
  } finally {
    clearTimeout(timer);
    await body?.cancel().catch(() => undefined);
  }
}

/** @returns bytes that the whole file will have, as far as source and server say */
async function begin(response: Response, part: Part, file: RemoteFile, means: DownloadMeans): Promise<number | null> {
  const { status, headers } = response;
  if (status === 200) {
    // Also the answer of a server that does not know ranges.
    await part.clear();
    const length = headers.get("content-length");
    return file.numBytes ?? (length === null ? null : Number(length));
  }
  if (status === 206 && part.numBytes > 0) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get("content-range") ?? "");
    if (range !== null && Number(range[1]) === part.numBytes) return file.numBytes ?? (range[2] === "*" ? null : Number(range[2]));
    await response.body?.cancel();
    await part.clear();
    throw new Passing("the server answered with another range than was asked for", 0);
  }
  if (status === 416) {
    await response.body?.cancel();
    await part.clear();
    throw new Passing("the server has no such range", 0);
  }
  const error = await means.explain(response, file);
  if (error !== null) throw error;
  await response.body?.cancel();
  throw new Passing(`the server answered ${status}`, retryAfterMs(headers, means.nowMs()));
}

/** In seconds or as a date. */
export function retryAfterMs(headers: Headers, nowMs: number): number | null {
  const value = headers.get("retry-after");
  if (value === null) return null;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? null : Math.max(0, at - nowMs);
}

/** The bytes on disk, with their hashes. */
class Part {
  readonly #handle: FileHandle;
  readonly #file: RemoteFile;
  #sha256 = new Bun.CryptoHasher("sha256");
  #git: Bun.CryptoHasher | null = null;
  numBytes = 0;

  private constructor(handle: FileHandle, file: RemoteFile) {
    this.#handle = handle;
    this.#file = file;
    this.#start();
  }

  static async resume(handle: FileHandle, file: RemoteFile): Promise<Part> {
    const part = new Part(handle, file);
    const { size } = await handle.stat();
    if (size === 0) return part;
    // Bytes that nothing vouches for might be of an older content.
    if (file.digest === null || (file.numBytes !== null && size > file.numBytes)) {
      await part.clear();
      return part;
    }
    const chunk = new Uint8Array(1 << 20);
    while (part.numBytes < size) {
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, part.numBytes);
      if (bytesRead === 0) break;
      part.#hash(chunk.subarray(0, bytesRead));
    }
    return part;
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) done += (await this.#handle.write(bytes, done)).bytesWritten;
    this.#hash(bytes);
  }

  async clear(): Promise<void> {
    await this.#handle.truncate(0);
    this.#start();
  }

  sha256(): string {
    return this.#sha256.copy().digest("hex");
  }

  /** What is wrong with the whole, as the end of "it has". */
  problem(): string | null {
    const { numBytes, digest } = this.#file;
    if (numBytes !== null && this.numBytes !== numBytes) return `${this.numBytes > numBytes ? "more than" : `${this.numBytes} of`} the ${numBytes} bytes that its source says`;
    if (digest === null) return null;
    const hex = digest.kind === "sha256" ? this.sha256() : this.#git?.copy().digest("hex");
    return hex === digest.hex ? null : `other bytes than its source says: ${digest.kind === "git" ? "SHA-1" : "SHA-256"} ${hex} and not ${digest.hex}`;
  }

  #start(): void {
    const { digest, numBytes } = this.#file;
    this.#sha256 = new Bun.CryptoHasher("sha256");
    this.#git = digest?.kind === "git" ? new Bun.CryptoHasher("sha1").update(`blob ${numBytes}\0`) : null;
    this.numBytes = 0;
  }

  #hash(bytes: Uint8Array): void {
    this.#sha256.update(bytes);
    this.#git?.update(bytes);
    this.numBytes += bytes.length;
  }
}

const tooLarge = ({ name, numBytes }: RemoteFile, { maxBytes }: DownloadLimits): LorikeetError =>
  refusedSource(`${name} has ${numBytes === null ? "more than" : `${numBytes} bytes; at most`} ${maxBytes}${numBytes === null ? " bytes, which are the most that" : ""} are read`);

const reasonOf = (thrown: unknown): string => {
  if (thrown instanceof Passing) return thrown.message;
  const code = thrown instanceof Error && "code" in thrown && typeof thrown.code === "string" ? thrown.code : null;
  return code === null ? "the connection failed" : `the connection failed (${code})`;
};
