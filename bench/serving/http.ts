/**
 * What HTTP costs: the same streams through the server, from processes of their own, and through the library's door in
 * the server's own process.
 *
 *   bun bench/serving/http.ts [--device cuda|wasm|stand-in] [--model DIR] [--streams 128] [--prompt 128] [--tokens 256]
 *       [--requests 2] [--adapters 8] [--rank 16] [--rounds 5] [--clients 4] [--step-ms 8] [--ahead yes|no] [--json FILE]
 *
 * Both have the whole runtime: scheduler, text, stop conditions. On CUDA, DIR holds a config.json and weights are made
 * up on the device, as is the tokenizer; on WASM it is a model. A stand-in device computes nothing and takes a fixed
 * time for a step, so that what the host costs can be seen on any machine. Prompts are texts, a ninth of the requests
 * is for the base with eight adapters, answers are streams of `tokens` tokens each. A round is `requests` requests a
 * stream by either way; the ratio is of neighbours in time. It is measured as one file as well:
 *
 *   bun build --target bun bench/serving/http.ts --outfile http.js && bun http.js --model bench/shapes/llama-3.1-8b
 */
import { join } from "node:path";
import pino from "pino";
import { drive, type RequestRecord } from "../../src/bench/load/drive.ts";
import { runtimeTarget } from "../../src/bench/load/runtime-target.ts";
import { percentilesOf } from "../../src/bench/report/percentiles.ts";
import type { Trace } from "../../src/bench/workload/trace.ts";
import { listen } from "../../src/http/server.ts";
import { createLocalRuntime } from "../../src/runtime/local-runtime.ts";
import { machineClock, threadClock } from "../lib/clocks.ts";
import { randomAdapter } from "../lib/cuda-rig.ts";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { LOAD_ROLE, LoadProcess, serveOrders } from "../lib/load-process.ts";
import { randomSource } from "../lib/random-model.ts";
import { atLeast, printLimits, printTable, type Spread, spreadOf, writeRecord } from "../lib/record.ts";
import { DEVICES, openBackend, openModel } from "../lib/serving-rig.ts";

const LEAST_RATIO = 0.95;

async function measure(): Promise<void> {
  const flags = parseFlags({
    device: "cuda", model: undefined, streams: "128", prompt: "128", tokens: "256", requests: "2", adapters: "8", rank: "16", rounds: "5", clients: "4", "step-ms": "8", ahead: "yes", json: undefined,
  });
  const device = oneOf("device", flags.device, DEVICES);
  const numStreams = integerIn("streams", flags.streams, 1, 1024);
  const promptTokens = integerIn("prompt", flags.prompt, 1, 65_536);
  const outputTokens = integerIn("tokens", flags.tokens, 2, 65_536);
  const perStream = integerIn("requests", flags.requests, 1, 1000);
  const numAdapters = integerIn("adapters", flags.adapters, 0, 64);
  const rank = integerIn("rank", flags.rank, 1, 256);
  const rounds = integerIn("rounds", flags.rounds, 1, 100);
  const numClients = integerIn("clients", flags.clients, 1, 64);
  const stepMs = integerIn("step-ms", flags["step-ms"], 1, 1000);
  const goesAhead = oneOf("ahead", flags.ahead, ["yes", "no"]) === "yes";
  const shape = join(import.meta.dir, device === "wasm" ? "../../models/demo" : "../shapes/llama-3.1-8b");

  const opened = await openModel(device, flags.model ?? shape);
  const { model, randomText } = opened;
  // Texts encode to about as many tokens as they were made of, and one more token begins them.
  const contextTokens = Math.min(model.program.maxContext, 2 * promptTokens + outputTokens + 16);
  const backend = await openBackend(device, model, contextTokens, { numStreams, numAdapters, rank, stepMs });
  const names = Array.from({ length: numAdapters }, (_, i) => `a${i}`);
  const runtime = createLocalRuntime({
    model,
    backend,
    readAdapter: ({ name }) => Promise.resolve(randomAdapter(model.program, 100 + names.indexOf(name), () => rank)),
    options: { goesAhead, adapters: names.map((name) => ({ name, path: `/${name}` })), hostCacheBytes: 64 * 2 ** 30, maxWaitingRequests: numStreams * perStream, maxWaitingTokens: Number.MAX_SAFE_INTEGER },
  });
  const http = listen({
    runtime, encodeChat: () => [], host: "127.0.0.1", port: 0, apiKeys: [], adminKeys: [], allowNoKey: false, allowedHosts: [], baseNames: [model.name], version: "0", log: pino({ level: "silent" }),
  });
  const library = await runtimeTarget(runtime, names.map((name) => ({ name })));
  const clients = Array.from({ length: Math.min(numClients, numStreams) }, () => new LoadProcess(import.meta.path));
  const nowMs = machineClock();
  const onCore = threadClock();

  const traceOf = (seed: number, requests: number): Trace => {
    const random = randomSource(seed);
    return Array.from({ length: requests }, (_, i) => ({
      atMs: 0, prompt: randomText(promptTokens, random), outputTokens, adapter: i % (numAdapters + 1) === 0 ? null : (i % (numAdapters + 1)) - 1,
    }));
  };

  /** One after the other takes a share of the trace, and of the streams. */
  const byHttp = async (trace: Trace): Promise<Answers> => {
    const shares = clients.map((client, i) =>
      client.send({
        baseUrl: `http://127.0.0.1:${http.port}`, model: model.name, adapters: names, trace: trace.filter((_, at) => at % clients.length === i),
        concurrency: Math.floor((numStreams + i) / clients.length),
      }),
    );
    const loads = await Promise.all(shares);
    return { records: loads.flatMap(({ records, startMs }) => records.map((record) => shifted(record, startMs))), clientMs: loads.reduce((sum, { cpuMs }) => sum + cpuMs, 0) };
  };
  const byLibrary = async (trace: Trace): Promise<Answers> => {
    const startMs = nowMs();
    const records = await drive(trace, library, { concurrency: numStreams, signal: new AbortController().signal });
    return { records: records.map((record) => shifted(record, startMs)), clientMs: 0 };
  };

  const run = async (send: (trace: Trace) => Promise<Answers>, seed: number, requests = perStream * numStreams): Promise<Sample> => {
    const trace = traceOf(seed, requests);
    const before = { ...runtime.stats(), coreMs: onCore() };
    const answers = await send(trace);
    const after = { ...runtime.stats(), coreMs: onCore() };
    return sampleOf(answers, outputTokens, after.steps - before.steps, after.stepComputeMs - before.stepComputeMs, after.coreMs - before.coreMs);
  };

  for (const send of [byLibrary, byHttp]) await run(send, 1, numStreams);
  const samples: { library: Sample; http: Sample }[] = [];
  for (let round = 0; round < rounds; round++) {
    // Each way goes first as often as the other.
    const ways = [["library", byLibrary], ["http", byHttp]] as const;
    const measured: Partial<Record<"library" | "http", Sample>> = {};
    for (const [way, send] of round % 2 === 0 ? ways : ways.toReversed()) measured[way] = await run(send, 2 + round);
    samples.push(measured as { library: Sample; http: Sample });
    console.error(`round ${round + 1}: library ${measured.library!.tokensPerSecond.toFixed(0)} tokens/s, HTTP ${measured.http!.tokensPerSecond.toFixed(0)}`);
  }

  const spread = (way: "library" | "http"): Record<keyof Sample, Spread> =>
    Object.fromEntries(Object.keys(samples[0]![way]).map((figure) => [figure, spreadOf(samples.map((sample) => sample[way][figure as keyof Sample]))])) as Record<keyof Sample, Spread>;
  const figures = { library: spread("library"), http: spread("http") };
  const ratio = spreadOf(samples.map(({ library, http }) => http.tokensPerSecond / library.tokensPerSecond));
  console.log(`${model.name}, ${backend.info.description}\n${numStreams} streams, prompts of about ${promptTokens} tokens, ${outputTokens} new ones, ${numAdapters} adapters of rank ${rank} and the base\n`);
  printTable(
    ["figure", "library", "min", "max", "HTTP", "min", "max"],
    (Object.keys(figures.library) as (keyof Sample)[]).map((figure) => [figure, ...[figures.library, figures.http].flatMap((way) => cells(way[figure]))]),
  );
  console.log(`\nHTTP of the library's tokens/s: ${cells(ratio).join(" ")} (median, min, max)`);
  const limits = [atLeast("HTTP against the library, tokens/s", ratio, LEAST_RATIO)];
  printLimits(limits);
  if (flags.json !== undefined) {
    await writeRecord(flags.json, "serving/http", {
      model: opened.config, device: backend.info.description, driver: driverVersion(), goesAhead, numStreams, promptTokens, outputTokens, perStream, numAdapters, rank, numClients: clients.length, figures, ratio, limits,
    });
  }
  await Promise.all(clients.map((client) => client.stop()));
  await http.stop(0);
  await runtime.close(0);
  process.exit(0);
}

interface Answers {
  readonly records: readonly RequestRecord[];
  readonly clientMs: number;
}

interface Sample {
  readonly tokensPerSecond: number;
  readonly stepMs: number;
  /** Of a step, outside of native code: when a device would have nothing to do. */
  readonly stepHostMs: number;
  /** The serving thread, on a core: of the time. */
  readonly serverCore: number;
  readonly clientCores: number;
  readonly firstTokenP50Ms: number;
  readonly gapP50Ms: number;
  readonly gapP99Ms: number;
}

function sampleOf({ records, clientMs }: Answers, outputTokens: number, steps: number, computeMs: number, coreMs: number): Sample {
  for (const { error, outputTokens: got } of records) {
    if (error !== null) throw new Error(`a request failed: ${error}`);
    if (got !== outputTokens) throw new Error(`an answer has ${got} tokens, not ${outputTokens}`);
  }
  const wallMs = Math.max(...records.map(({ endMs }) => endMs)) - Math.min(...records.map(({ sentMs }) => sentMs));
  const gaps = percentilesOf(records.flatMap(({ pieces }) => pieces.slice(1).map(({ atMs }, i) => atMs - pieces[i]!.atMs)))!;
  return {
    tokensPerSecond: (1000 * records.length * outputTokens) / wallMs,
    stepMs: wallMs / steps,
    stepHostMs: (wallMs - computeMs) / steps,
    serverCore: coreMs / wallMs,
    clientCores: clientMs / wallMs,
    firstTokenP50Ms: percentilesOf(records.map(({ firstMs, sentMs }) => firstMs! - sentMs))!.p50,
    gapP50Ms: gaps.p50,
    gapP99Ms: gaps.p99,
  };
}

const shifted = (record: RequestRecord, ms: number): RequestRecord => ({
  ...record,
  sentMs: record.sentMs + ms,
  firstMs: record.firstMs === null ? null : record.firstMs + ms,
  endMs: record.endMs + ms,
  pieces: record.pieces.map(({ atMs, tokens }) => ({ atMs: atMs + ms, tokens })),
});

const cells = ({ median, min, max }: Spread): string[] => [median, min, max].map((value) => value.toFixed(value < 100 ? 3 : 1));

/** Of NVIDIA's driver, where there is one that says so. */
function driverVersion(): string | null {
  try {
    return Bun.spawnSync(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).stdout.toString().trim();
  } catch {
    return null;
  }
}

if (process.argv.includes(LOAD_ROLE)) serveOrders();
else await measure();
