/**
 * The whole server over a stand-in engine, as a process of its own: scheduler, text, HTTP, but a step takes a fixed
 * time and nothing is computed. Every sequence's token is the number of its step, so that whoever reads an answer knows
 * when each of its tokens was made.
 */
import pino from "pino";
import { listen } from "../../src/http/server.ts";
import type { Detokenizer, Tokenizer } from "../../src/model/tokenizer.ts";
import { createLocalRuntime } from "../../src/runtime/local-runtime.ts";
import { fakeModel } from "../../test/helpers/runtime.ts";
import { machineClock } from "./clocks.ts";
import { PACED_PAGE_TOKENS, pacedBackend } from "./paced-backend.ts";

/** Enough for 20 minutes at 50 steps a second. */
export const VOCAB = 65_536;

export type Order = { readonly order: "begin" } | { readonly order: "end" };
export interface Told {
  /** On a core, of the whole process, since `begin`. */
  readonly cpuMs: number;
  readonly wallMs: number;
  /** When each step's tokens were there, by the machine's monotonic clock in milliseconds. */
  readonly stepMs: readonly number[];
}

const nowMs = machineClock();
const stepMs: number[] = [];

/** Each token is its number and a space. */
function numbersTokenizer(): Tokenizer {
  const detokenizer = (): Detokenizer => ({ push: (id) => `${id} `, flush: () => "" });
  return {
    vocabSize: VOCAB,
    encode: () => [1],
    decode: (ids) => ids.map((id) => `${id} `).join(""),
    tokenBytes: (id) => new TextEncoder().encode(`${id} `),
    isSpecial: () => false,
    tokenId: () => undefined,
    detokenizer,
  };
}

if (import.meta.main) {
  const [paceMs, maxSequences, contextTokens] = process.argv.slice(2).map(Number) as [number, number, number];
  const runtime = createLocalRuntime({
    model: fakeModel(VOCAB, numbersTokenizer()),
    backend: pacedBackend({
      stepMs: paceMs, idles: false, vocabSize: VOCAB, maxRows: 4 * maxSequences, maxSequences, numPages: maxSequences * Math.ceil(contextTokens / PACED_PAGE_TOKENS), numSlots: 0,
      onStep: (atMs) => stepMs.push(atMs),
    }),
    readAdapter: () => Promise.reject(new Error("no adapters")),
    options: { maxWaitingRequests: maxSequences },
  });
  const http = listen({
    runtime, encodeChat: () => [1], host: "127.0.0.1", port: 0, apiKeys: [], adminKeys: [], allowNoKey: false, allowedHosts: [], baseNames: ["stand-in"], version: "0", log: pino({ level: "silent" }),
  });
  let begun = { cpu: process.cpuUsage(), atMs: nowMs() };
  process.on("message", ({ order }: Order) => {
    if (order === "begin") {
      begun = { cpu: process.cpuUsage(), atMs: nowMs() };
      return;
    }
    const { user, system } = process.cpuUsage(begun.cpu);
    process.send!({ cpuMs: (user + system) / 1000, wallMs: nowMs() - begun.atMs, stepMs } satisfies Told);
  });
  process.send!({ port: http.port });
}
