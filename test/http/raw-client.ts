/** A client that writes bytes to a socket and reads bytes, when it feels like it. */
export class RawClient {
  readonly #socket: Bun.Socket<undefined>;
  received = "";
  isClosed = false;
  #wake: () => void = () => undefined;

  private constructor(socket: Bun.Socket<undefined>) {
    this.#socket = socket;
  }

  static async connect(port: number): Promise<RawClient> {
    let client: RawClient | null = null;
    const decoder = new TextDecoder();
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        drain: () => client?.drain(),
        data: (_, bytes) => client?.take(decoder.decode(bytes, { stream: true })),
        close: () => client?.close(),
        error: () => client?.close(),
      },
    });
    client = new RawClient(socket);
    return client;
  }

  send(text: string): void {
    this.#socket.write(text);
    this.#socket.flush();
  }

  /** Sends all of it, as fast as the server takes it; less where the server closes. */
  async write(text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length && !this.isClosed; ) {
      const sent = this.#socket.write(bytes.subarray(at));
      if (sent < 0) return;
      at += sent;
      if (at < bytes.length) await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  post(path: string, body: object): void {
    const json = JSON.stringify(body);
    this.send(
      `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`,
    );
  }

  /** Waits until all that came matches. */
  async until(isEnough: (received: string) => boolean): Promise<string> {
    while (!isEnough(this.received)) {
      if (this.isClosed) throw new Error(`the connection closed after: ${this.received}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.received;
  }

  async closed(): Promise<void> {
    while (!this.isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  stopReading(): void {
    this.#socket.pause();
  }

  end(): void {
    this.#socket.terminate();
  }

  private take(text: string): void {
    this.received += text;
    this.#wake();
  }

  private drain(): void {
    this.#wake();
  }

  private close(): void {
    this.isClosed = true;
    this.#wake();
  }
}

/** One request with these header lines, and the status of its answer. */
export async function rawStatus(port: number, requestLine: string, headers: readonly string[]): Promise<number> {
  const client = await RawClient.connect(port);
  client.send(`${[requestLine, ...headers].join("\r\n")}\r\n\r\n`);
  const received = await client.until((text) => text.includes("\r\n"));
  client.end();
  return Number(received.split(" ")[1]);
}
