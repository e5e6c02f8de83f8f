/**
 * What scheduler, actors and HTTP cost beside the model: 32 streams through the server, all decoding.
 *
 *   bun bench/serving/overhead.ts [--model demo|135m] [--streams 32] [--adapters 8] [--json FILE]
 *
 * Two figures, because the threads that compute and the one that serves share the cores:
 *
 *
 *   share        the part of wall time in which no step runs: 1 - compute / wall. It holds composing and settling steps,
 *                actor events, and what of JSON and socket writes does not run beside a step.
 *   threadShare  the time that the serving thread spent on a core, against wall time: all of the above, also what ran
 *                beside a step and so slowed it, and the client, which lives on the same thread.
 *
 * Both from the first token of the last stream to the end of the first one.
 */
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { startServer } from "../../src/serve.ts";
import { integerIn, oneOf, parseFlags } from "../lib/flags.ts";
import { DEMO_SHAPE, LLAMA_135M, type ModelShape, randomAdapter, randomModel, randomSource } from "../lib/random-model.ts";
import { atMost, Neighbours, printLimits, printTable, spreadOf, writeRecord } from "../lib/record.ts";
import { threadClock } from "../lib/clocks.ts";

const REPEATS = 5;
const PROMPT_TOKENS = 32;
const OUTPUT_TOKENS = 48;

const MOST_SHARE = 0.05;

const flags = parseFlags({ model: "135m", streams: "32", adapters: "8", json: undefined });
const shape: ModelShape = oneOf("model", flags.model, ["demo", "135m"]) === "demo" ? DEMO_SHAPE : LLAMA_135M;
const numStreams = integerIn("streams", flags.streams, 1, 256);
const numAdapters = integerIn("adapters", flags.adapters, 0, 64);
const root = join(import.meta.dir, "../models");

const model = await randomModel(shape, root);
const loraDir: string[] = [];
for (let i = 0; i < numAdapters; i++) loraDir.push(`a${i}=${await randomAdapter(shape, 16, i, root)}`);
const { config } = resolveConfig(
  givenOptions({ model, port: 0, logLevel: "error", maxSeqLen: 512, loraConfig: { loraDir, maxLoras: numAdapters } }, "server"),
);
const server = await startServer(config);
const url = `http://127.0.0.1:${server.http.port}/v1/completions`;
const random = randomSource(5);

interface Stream {
  readonly firstMs: number;
  readonly lastMs: number;
}

async function stream(index: number): Promise<Stream> {
  const body = {
    model: index % (numAdapters + 1) === 0 ? shape.name : `a${(index % (numAdapters + 1)) - 1}`,
    prompt: Array.from({ length: PROMPT_TOKENS }, () => 3 + Math.floor(random() * (shape.vocabSize - 3))),
    max_tokens: OUTPUT_TOKENS,
    ignore_eos: true,
    temperature: 0,
    stream: true,
    return_token_ids: true,
  };
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (response.status !== 200) throw new Error(await response.text());
  let firstMs = 0;
  let lastMs = 0;
  for await (const _ of response.body!) {
    lastMs = performance.now();
    if (firstMs === 0) firstMs = lastMs;
  }
  return { firstMs, lastMs };
}

const onCore = threadClock();

interface Sample {
  readonly share: number;
  readonly threadShare: number;
  readonly stepMs: number;
  readonly tokensPerSecond: number;
}

async function run(): Promise<Sample> {
  const { runtime } = server.opened;
  const marks: { atMs: number; coreMs: number; steps: number; computeMs: number }[] = [];
  const timer = setInterval(() => {
    const { steps, stepComputeMs } = runtime.stats();
    marks.push({ atMs: performance.now(), coreMs: onCore(), steps, computeMs: stepComputeMs });
  }, 5);
  const streams = await Promise.all(Array.from({ length: numStreams }, (_, i) => stream(i)));
  clearInterval(timer);
  const from = Math.max(...streams.map(({ firstMs }) => firstMs));
  const to = Math.min(...streams.map(({ lastMs }) => lastMs));
  // Only whole steps count: from the first change of the counter in the window to the last.
  const changes = marks.filter((mark, i) => i > 0 && mark.steps !== marks[i - 1]!.steps && mark.atMs >= from && mark.atMs <= to);
  const first = changes[0]!;
  const last = changes.at(-1)!;
  const wallMs = last.atMs - first.atMs;
  const steps = last.steps - first.steps;
  return {
    share: 1 - (last.computeMs - first.computeMs) / wallMs,
    threadShare: (last.coreMs - first.coreMs) / wallMs,
    stepMs: wallMs / steps,
    tokensPerSecond: (numStreams * steps * 1000) / wallMs,
  };
}

await run();
const samples: Sample[] = [];
const neighbours = new Neighbours();
for (let i = 0; i < REPEATS; i++) samples.push(await run());
const coresOfOthers = neighbours.cores();
const figures = {
  share: spreadOf(samples.map(({ share }) => share)),
  threadShare: spreadOf(samples.map(({ threadShare }) => threadShare)),
  stepMs: spreadOf(samples.map(({ stepMs }) => stepMs)),
  tokensPerSecond: spreadOf(samples.map(({ tokensPerSecond }) => tokensPerSecond)),
};
console.log(`${shape.name}, ${server.opened.runtime.backend.description}, ${numStreams} streams over ${numAdapters} adapters and the base`);
printTable(
  ["figure", "median", "min", "max"],
  Object.entries(figures).map(([name, { median, min, max }]) => [name, median.toFixed(3), min.toFixed(3), max.toFixed(3)]),
);
const limits = [atMost("share of a step without a kernel", figures.share, MOST_SHARE), atMost("serving thread, share of a step", figures.threadShare, MOST_SHARE)];
printLimits(limits);
if (flags.json !== undefined) await writeRecord(flags.json, "serving/overhead", { shape, numStreams, numAdapters, figures, limits }, coresOfOthers);
await server.stop();
process.exit(0);
