/**
 * Two clients under overload, one of whom asks ten times as often: what each is served while both wait, and how long they wait.
 *
 *   bun bench/workloads/fairness.ts [--requests 165] [--scale 0.25] [--json FILE]
 *
 * `lorikeet bench serve --workload fairness` against a server of this process that knows the clients by their API keys, all requests
 * at once: on an adapter each, on one adapter, where only their keys tell them apart, and without keys on one adapter, where
 * nothing does.
 */
import { mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { bench } from "../../src/bench-command.ts";
import type { Report } from "../../src/bench/report/report.ts";
import { parseCommandLine } from "../../src/config/cli.ts";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { startServer } from "../../src/serve.ts";
import { integerIn, parseFlags } from "../lib/flags.ts";
import { Neighbours, printTable, writeRecord } from "../lib/record.ts";

const flags = parseFlags({ requests: "165", scale: "0.25", json: join(import.meta.dir, "../results/fairness-demo.json") });
const numRequests = integerIn("requests", flags.requests, 22, 10_000);
const model = join(import.meta.dir, "../../models/demo");
mkdirSync(dirname(flags.json), { recursive: true });

/** Few places in the batch, so that there is something to share out. */
const MAX_BATCH_SIZE = 8;
const CLIENTS = ["often", "seldom"].map((name) => ({ name, key: `sk-${name}` }));
const CASES = [
  { name: "two keys, an adapter each", adapters: ["sql", "pirate"], clients: CLIENTS },
  { name: "two keys, one adapter", adapters: ["sql", "sql"], clients: CLIENTS },
  { name: "no keys, one adapter", adapters: ["sql", "sql"], clients: [] },
] as const;

async function measure({ adapters, clients }: (typeof CASES)[number]): Promise<Report> {
  const options = { model, port: 0, logLevel: "error", backend: "wasm", maxBatchSize: MAX_BATCH_SIZE, loraConfig: { loraDir: [join(model, "adapters")] }, clients };
  const server = await startServer(resolveConfig(givenOptions(options, "server")).config);
  const path = `${flags.json}.tmp`;
  try {
    const asked = [...adapters.flatMap((adapter) => ["--lora-modules", adapter]), ...clients.flatMap(({ key }) => ["--api-key", key])];
    const load = ["--length-scale", flags.scale, "--num-requests", flags.requests, "--request-rate", "inf"];
    const argv = ["bench", "serve", "--base-url", `http://127.0.0.1:${server.http.port}`, "--workload", "fairness", ...asked, ...load, "--report-json", path];
    const command = parseCommandLine(argv, { version: "0", env: {}, readFile: () => "", demo: () => model });
    if (command.kind !== "bench") throw new Error(`${argv.join(" ")} is no bench`);
    if (!(await bench(command.resolved.config, command.ask, { write: () => undefined, errors: process.stderr }))) throw new Error("requests failed");
    return (await Bun.file(path).json()) as Report;
  } finally {
    rmSync(path, { force: true });
    await server.stop();
  }
}

const neighbours = new Neighbours();
const results: Record<string, Report> = {};
for (const each of CASES) results[each.name] = await measure(each);
const coresOfOthers = neighbours.cores();

printTable(
  ["one asks ten times as often", "requests", "service while both wait", "largest gap", "TTFT P50, ms", "TTFT P99, ms"],
  Object.entries(results).map(([name, { fairness, adapters }]) => {
    const ofEach = (value: (each: Report["adapters"][number]) => number): string => adapters.map((each) => value(each).toFixed(0)).join(" and ");
    return [name, ofEach((each) => each.num_requests), fairness?.service.join(" and ") ?? "-", String(fairness?.max_gap ?? "-"), ofEach((each) => each.ttft_percentiles?.p50 ?? 0), ofEach((each) => each.ttft_percentiles?.p99 ?? 0)];
  }),
);
await writeRecord(flags.json, "workloads/fairness", { requests: numRequests, scale: Number(flags.scale), maxBatchSize: MAX_BATCH_SIZE, results }, coresOfOthers);
process.exit(0);
