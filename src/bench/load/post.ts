/**
 * One POST, answered piece by piece.
 *
 * Node's client and not `fetch`: Bun lets 256 requests of `fetch` go out at once and keeps the others waiting, which a
 * load generator would mistake for the server's doing.
 */
import { Agent as PlainAgent, type IncomingMessage, request as plainRequest } from "node:http";
import { Agent as TlsAgent, request as tlsRequest } from "node:https";

const OPTIONS = { keepAlive: true, maxSockets: Infinity } as const;
const agents = { "http:": new PlainAgent(OPTIONS), "https:": new TlsAgent(OPTIONS) } as const;

export interface Posted {
  readonly status: number;
  readonly body: AsyncIterable<Uint8Array>;
}

/** @throws when there is no answer, or `signal` ends it */
export function post(url: URL, headers: Readonly<Record<string, string>>, body: string, signal: AbortSignal): Promise<Posted> {
  const { promise, resolve, reject } = Promise.withResolvers<Posted>();
  const isTls = url.protocol === "https:";
  const options = { method: "POST", headers: { ...headers, "content-length": String(Buffer.byteLength(body)) }, agent: agents[isTls ? "https:" : "http:"], signal };
  const onAnswer = (answer: IncomingMessage): void => resolve({ status: answer.statusCode ?? 0, body: answer });
  const sent = isTls ? tlsRequest(url, options, onAnswer) : plainRequest(url, options, onAnswer);
  sent.on("error", reject);
  sent.end(body);
  return promise;
}

/** All of it. */
export async function textOf(body: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of body) text += decoder.decode(bytes, { stream: true });
  return text + decoder.decode();
}
