/**
 * What serving costs: many streams at once, paced by a stand-in engine, over the whole server in a process of its own.
 *
 *   bun bench/serving/streams.ts [--streams 200] [--rate 50] [--seconds 10] [--json FILE]
 *
 * Share of a core is the server's whole process, all threads, while all streams run. Lag is from the moment when the
 * engine had the token to the moment when a reader in this process had its event, so it has the reader's own queue in it.
 * Every token of every stream must arrive, in order.
 */
import { join } from "node:path";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { type Order, type Told, VOCAB } from "../lib/stand-in-server.ts";
import { machineClock } from "../lib/clocks.ts";
import { atMost, Neighbours, printLimits, printTable, spreadOf, writeRecord } from "../lib/record.ts";
import { percentilesOf } from "../../src/bench/report/percentiles.ts";

const REPEATS = 3;
const MOST_SHARE = 0.25;
const MOST_LAG_MS = 10;
/** The figures' limits are for this many streams; more are only held to losing nothing. */
const LIMITED_STREAMS = 200;

const flags = parseFlags({ streams: "200", rate: "50", seconds: "10", json: undefined });
const numStreams = integerIn("streams", flags.streams, 1, 4096);
const rate = integerIn("rate", flags.rate, 1, 1000);
const numTokens = integerIn("seconds", flags.seconds, 2, 600) * rate;

const nowMs = machineClock();
let told: (message: unknown) => void = () => undefined;
const heard = <T>(): Promise<T> => new Promise((resolve) => (told = resolve as (message: unknown) => void));
const started = heard<{ readonly port: number }>();
const script = join(import.meta.dir, "../lib/stand-in-server.ts");
const child = Bun.spawn([process.execPath, script, String(1000 / rate), String(numStreams), String(numTokens + 64)], { stdout: "inherit", stderr: "inherit", ipc: (message) => told(message) });
const send = (order: Order): void => child.send(order);
const { port } = await started;
const body = JSON.stringify({ model: "stand-in", prompt: [1, 2, 3, 4], max_tokens: numTokens, stream: true, temperature: 0 });

interface Arrival {
  readonly id: number;
  readonly atMs: number;
}

/** A reader that does as little as can be, straight on a socket: what it costs is in the lag. */
function stream(): Promise<Arrival[]> {
  const { promise, resolve, reject } = Promise.withResolvers<Arrival[]>();
  const arrivals: Arrival[] = [];
  let rest = "";
  const head = `POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
  const broken = (): void => reject(new Error(`a stream broke off: ${rest.slice(-200)}`));
  void Bun.connect({
    hostname: "127.0.0.1",
    port,
    socket: {
      open: (socket) => void socket.write(head + body),
      data: (socket, bytes) => {
        const atMs = nowMs();
        const text = rest + bytes.toString("latin1");
        let from = 0;
        for (let at = text.indexOf(FIELD); at !== -1; at = text.indexOf(FIELD, from)) {
          const end = text.indexOf('"', at + FIELD.length);
          if (end === -1) break;
          for (const id of text.slice(at + FIELD.length, end).split(" ")) if (id !== "") arrivals.push({ id: Number(id), atMs });
          from = end;
        }
        rest = text.slice(from);
        if (!rest.includes("data: [DONE]")) return;
        resolve(arrivals);
        socket.end();
      },
      close: broken,
      error: broken,
      connectError: broken,
    },
  });
  return promise;
}

const FIELD = '"text":"';

async function run() {
  const streams = Array.from({ length: numStreams }, stream);
  await Bun.sleep(1_000);
  send({ order: "begin" });
  await Bun.sleep((numTokens * 1000) / rate - 2_000);
  const answer = heard<Told>();
  send({ order: "end" });
  const { cpuMs, wallMs, stepMs } = await answer;
  const fromMs = nowMs() - wallMs;
  const toMs = nowMs();
  const finished = await Promise.all(streams);
  let lost = 0;
  const lags: number[] = [];
  for (const arrivals of finished) {
    lost += numTokens - arrivals.length;
    for (const [i, { id, atMs }] of arrivals.entries()) {
      if (i > 0 && (id - arrivals[i - 1]!.id + VOCAB) % VOCAB < 1) throw new Error("tokens of a stream came out of order");
      if (atMs >= fromMs && atMs < toMs && id < stepMs.length) lags.push(atMs - stepMs[id]!);
    }
  }
  const steps = stepMs.filter((ms) => ms >= fromMs && ms < toMs).length;
  return { share: cpuMs / wallMs, lag: percentilesOf(lags)!, lost, tokensPerSecond: (1000 * lags.length) / wallMs, stepsPerSecond: (1000 * steps) / wallMs };
}

await run();
const neighbours = new Neighbours();
const samples: Awaited<ReturnType<typeof run>>[] = [];
for (let i = 0; i < REPEATS; i++) samples.push(await run());
const coresOfOthers = neighbours.cores();
const spread = (of: (sample: (typeof samples)[number]) => number) => spreadOf(samples.map(of));
const figures = {
  share: spread(({ share }) => share),
  lagP50Ms: spread(({ lag }) => lag.p50),
  lagP99Ms: spread(({ lag }) => lag.p99),
  lagMaxMs: spread(({ lag }) => lag.maximum),
  tokensPerSecond: spread(({ tokensPerSecond }) => tokensPerSecond),
  stepsPerSecond: spread(({ stepsPerSecond }) => stepsPerSecond),
  lostTokens: spread(({ lost }) => lost),
};
console.log(`${numStreams} streams of ${numTokens} tokens, ${rate} tokens/s each`);
printTable(["figure", "median", "min", "max"], Object.entries(figures).map(([name, { median, min, max }]) => [name, median.toFixed(3), min.toFixed(3), max.toFixed(3)]));
const limits = numStreams > LIMITED_STREAMS ? [] : [atMost("share of a core", figures.share, MOST_SHARE), atMost("lag P99, ms", figures.lagP99Ms, MOST_LAG_MS)];
printLimits(limits);
if (flags.json !== undefined) await writeRecord(flags.json, "serving/streams", { numStreams, numTokens, rate, figures, limits }, coresOfOthers);
child.kill();
await child.exited;
if (figures.lostTokens.max > 0) throw new Error(`${figures.lostTokens.max} tokens were lost`);
process.exit(0);
