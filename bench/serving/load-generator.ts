/**
 * Whether the load generator measures a server or itself: `bench serve`'s driver against a server that does nothing, in a
 * process of its own, in an open loop.
 *
 *   bun bench/serving/load-generator.ts [--rate 1000] [--seconds 10] [--tokens 4] [--json FILE]
 *
 * Scheduling error is how late after its time a request is sent.
 */
import { percentilesOf } from "../../src/bench/report/percentiles.ts";
import { drive } from "../../src/bench/load/drive.ts";
import { openAiTarget } from "../../src/bench/load/openai-target.ts";
import { arrivalTimes } from "../../src/bench/workload/arrivals.ts";
import { randomIds } from "../../src/bench/workload/lengths.ts";
import { Random } from "../../src/bench/workload/random.ts";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { atLeast, atMost, Neighbours, printLimits, printTable, spreadOf, writeRecord } from "../lib/record.ts";

const REPEATS = 3;
const PROMPT_TOKENS = 32;
const MOST_ERROR_MS = 1;

const flags = parseFlags({ rate: "1000", seconds: "10", tokens: "4", json: undefined });
const rate = integerIn("rate", flags.rate, 1, 100_000);
const seconds = integerIn("seconds", flags.seconds, 1, 600);
const numTokens = integerIn("tokens", flags.tokens, 1, 1024);

/** Every answer is the same bytes, made once. */
const SERVER = `
const chunk = (body) => "data: " + JSON.stringify(body) + "\\n\\n";
const numTokens = ${numTokens};
const text = Array.from({ length: numTokens }, (_, i) => chunk({ choices: [{ index: 0, text: "a", finish_reason: i === numTokens - 1 ? "length" : null }] })).join("")
  + chunk({ choices: [], usage: { prompt_tokens: ${PROMPT_TOKENS}, completion_tokens: numTokens } }) + "data: [DONE]\\n\\n";
const bytes = new TextEncoder().encode(text);
const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response(bytes, { headers: { "content-type": "text/event-stream" } }) });
process.send(server.port);
`;

const { promise: heard, resolve: hear } = Promise.withResolvers<number>();
const child = Bun.spawn([process.execPath, "-e", SERVER], { ipc: (port) => hear(port as number), stderr: "inherit" });
const target = await openAiTarget({ baseUrl: `http://127.0.0.1:${await heard}`, apiKeys: [], model: "trivial", adapters: [], endpoint: "completions" });

async function run(seed: number, durationS: number) {
  const random = new Random(seed);
  const times = arrivalTimes({ rate, cv: 1 }, rate * durationS, random);
  const trace = times.map((atMs) => ({ atMs, prompt: randomIds(PROMPT_TOKENS, 32_000, random), outputTokens: numTokens, adapter: null }));
  const before = process.cpuUsage();
  const records = await drive(trace, target, { concurrency: null, signal: new AbortController().signal });
  const { user, system } = process.cpuUsage(before);
  const failed = records.filter(({ error }) => error !== null);
  if (failed.length > 0) throw new Error(`${failed.length} requests failed: ${failed[0]!.error}`);
  const error = percentilesOf(records.map(({ sentMs, dueMs }) => sentMs - dueMs!))!;
  const wallMs = records.at(-1)!.sentMs;
  const latency = percentilesOf(records.map(({ endMs, sentMs }) => endMs - sentMs))!;
  return { error, latency, sentPerSecond: (1000 * records.length) / wallMs, wishedPerSecond: (1000 * records.length) / times.at(-1)!, cores: (user + system) / 1000 / wallMs };
}

await run(1, 2);
const neighbours = new Neighbours();
const samples: Awaited<ReturnType<typeof run>>[] = [];
for (let i = 0; i < REPEATS; i++) samples.push(await run(2 + i, seconds));
const coresOfOthers = neighbours.cores();
const spread = (of: (sample: (typeof samples)[number]) => number) => spreadOf(samples.map(of));
const figures = {
  errorP50Ms: spread(({ error }) => error.p50),
  errorP99Ms: spread(({ error }) => error.p99),
  errorMaxMs: spread(({ error }) => error.maximum),
  sentPerSecond: spread(({ sentPerSecond }) => sentPerSecond),
  rateKept: spread(({ sentPerSecond, wishedPerSecond }) => sentPerSecond / wishedPerSecond),
  latencyP50Ms: spread(({ latency }) => latency.p50),
  latencyP99Ms: spread(({ latency }) => latency.p99),
  cores: spread(({ cores }) => cores),
};
console.log(`${rate} requests/s for ${seconds} s, Poisson arrivals, ${numTokens} events each`);
printTable(["figure", "median", "min", "max"], Object.entries(figures).map(([name, { median, min, max }]) => [name, median.toFixed(3), min.toFixed(3), max.toFixed(3)]));
const limits = [atMost("scheduling error P50, ms", figures.errorP50Ms, MOST_ERROR_MS), atLeast("rate kept", figures.rateKept, 0.99)];
printLimits(limits);
if (flags.json !== undefined) await writeRecord(flags.json, "serving/load-generator", { rate, seconds, numTokens, figures, limits }, coresOfOthers);
child.kill();
await child.exited;
process.exit(0);
