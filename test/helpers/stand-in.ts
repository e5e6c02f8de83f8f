/** Servers on this machine in place of a hub, its storage, and any other host: what they hold, what they were asked, how they fail. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createHash } from "node:crypto";
import type { AddressInfo } from "node:net";

export interface Asked {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
}

/** What is done about a request: answered by a function, or else as usual. */
export type Fault = (request: Asked, response: ServerResponse, body: Uint8Array | null) => boolean;

export class StandIn {
  readonly asked: Asked[] = [];
  /** Asked first, for every request. */
  fault: Fault | null = null;
  readonly #server = createServer((request, response) => this.#answer(request, response));
  readonly #files: () => (path: string) => Uint8Array | null;
  /** Headers of a file's answer. */
  headersOf: (path: string) => Readonly<Record<string, string>> = () => ({});

  private constructor(files: () => (path: string) => Uint8Array | null) {
    this.#files = files;
  }

  /** @param find content of a path, `null` for 404; answers `HEAD`, and ranges from a byte on */
  static async start(find: (path: string) => Uint8Array | null = () => null): Promise<StandIn> {
    const standIn = new StandIn(() => find);
    await new Promise<void>((resolve) => standIn.#server.listen(0, "127.0.0.1", resolve));
    return standIn;
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Paths asked for, in order. */
  get paths(): string[] {
    return this.asked.map(({ path }) => path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const asked = { method: request.method!, path: request.url!, headers: request.headers };
    this.asked.push(asked);
    const path = decodeURIComponent(asked.path.split("?")[0]!);
    const body = this.#files()(path);
    if (this.fault?.(asked, response, body) === true) return;
    if (body === null) return void response.writeHead(404).end("not here");
    send(asked, response, body, this.headersOf(path));
  }
}

export function send(asked: Asked, response: ServerResponse, body: Uint8Array, headers: Readonly<Record<string, string>> = {}): void {
  const from = Number(/^bytes=(\d+)-$/.exec(asked.headers.range ?? "")?.[1] ?? 0);
  if (from > 0 && from >= body.length) return void response.writeHead(416, { "content-range": `bytes */${body.length}` }).end();
  const part = body.subarray(from);
  response.writeHead(from > 0 ? 206 : 200, {
    ...headers,
    "content-length": String(part.length),
    ...(from > 0 ? { "content-range": `bytes ${from}-${body.length - 1}/${body.length}` } : {}),
  });
  response.end(asked.method === "HEAD" ? undefined : part);
}

/**
 * Says that all comes, sends so many bytes, and hangs up.
 *
 * @param isSeen whether the other end has taken so many bytes of the file: what it has not taken by then may be lost to it
 */
export function cutAfter(numBytes: number, asked: Asked, response: ServerResponse, body: Uint8Array, isSeen: (total: number) => boolean = () => true): void {
  const from = Number(/^bytes=(\d+)-$/.exec(asked.headers.range ?? "")?.[1] ?? 0);
  const part = body.subarray(from);
  response.writeHead(from > 0 ? 206 : 200, {
    "content-length": String(part.length),
    ...(from > 0 ? { "content-range": `bytes ${from}-${body.length - 1}/${body.length}` } : {}),
  });
  const hangUp = (): void => {
    if (isSeen(from + numBytes)) response.destroy();
    else setTimeout(hangUp, 1);
  };
  response.write(part.subarray(0, numBytes), hangUp);
}

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const gitHash = (bytes: Uint8Array): string => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

export interface HubRepository {
  readonly commit: string;
  readonly files: Readonly<Record<string, Uint8Array | string>>;
  /** Kept in the storage, which another server answers for. */
  readonly large?: readonly string[];
}

/** A hub with its storage. */
export class FakeHub {
  readonly api: StandIn;
  readonly storage: StandIn;
  readonly repositories = new Map<string, HubRepository>();
  /** Lies of the listing, by file. */
  readonly said = new Map<string, { readonly size?: number; readonly sha256?: string }>();

  private constructor(api: StandIn, storage: StandIn) {
    this.api = api;
    this.storage = storage;
  }

  static async start(): Promise<FakeHub> {
    const hub: FakeHub = new FakeHub(await StandIn.start((path) => hub.#find(path)), await StandIn.start((path) => hub.#stored(path)));
    const redirect: Fault = ({ path }, response) => {
      const match = RESOLVE.exec(decodeURIComponent(path));
      if (match === null || hub.repositories.get(match[1]!)?.large?.includes(match[3]!) !== true) return false;
      response.writeHead(302, { location: `${hub.storage.origin}/${match[1]}/${match[3]}?signature=s` }).end();
      return true;
    };
    hub.api.fault = redirect;
    return hub;
  }

  /** With a fault of one's own asked before the redirect to the storage. */
  failing(fault: Fault): void {
    const usual = this.api.fault!;
    this.api.fault = (...all) => fault(...all) || usual(...all);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.api[Symbol.asyncDispose]();
    await this.storage[Symbol.asyncDispose]();
  }

  #find(path: string): Uint8Array | null {
    const listed = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path);
    if (listed !== null) {
      const repository = this.repositories.get(listed[1]!);
      if (repository === undefined || !["main", "v1", repository.commit].includes(listed[2]!)) return null;
      return new TextEncoder().encode(JSON.stringify(this.#listing(repository)));
    }
    const match = RESOLVE.exec(path);
    const repository = match === null ? undefined : this.repositories.get(match[1]!);
    return repository === undefined || match![2] !== repository.commit ? null : contentOf(repository, match![3]!);
  }

  #stored(path: string): Uint8Array | null {
    const [, name = "", file = ""] = /^\/([^/]+\/[^/]+)\/(.+)$/.exec(path) ?? [];
    const repository = this.repositories.get(name);
    return repository === undefined ? null : contentOf(repository, file);
  }

  #listing(repository: HubRepository): object {
    const siblings = Object.keys(repository.files).map((rfilename) => {
      const bytes = contentOf(repository, rfilename)!;
      const { size = bytes.length, sha256: hash = sha256(bytes) } = this.said.get(rfilename) ?? {};
      const isLarge = repository.large?.includes(rfilename) === true;
      return { rfilename, size, blobId: gitHash(bytes), ...(isLarge ? { lfs: { sha256: hash, size, pointerSize: 130 } } : {}) };
    });
    return { id: "x", sha: repository.commit, siblings };
  }
}

const RESOLVE = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/([^?]+)/;

function contentOf({ files }: HubRepository, name: string): Uint8Array | null {
  const content = files[name];
  return content === undefined ? null : typeof content === "string" ? new TextEncoder().encode(content) : content;
}
