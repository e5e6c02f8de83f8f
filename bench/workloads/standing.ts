/**
 * `lorikeet bench` over the demo: every named workload against a server of this process, throughput and latency without
 * one, and a sweep that is drawn.
 *
 *   bun bench/workloads/standing.ts [--form full|short] [--json FILE], and a picture beside FILE
 *
 * Lengths are a quarter of the papers', and rates what two cores can do; the short form is a few requests each, so that it
 * can be a test: its figures say nothing.
 */
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { bench } from "../../src/bench-command.ts";
import type { Report } from "../../src/bench/report/report.ts";
import { WORKLOAD_NAMES } from "../../src/bench/workload/workloads.ts";
import { parseCommandLine } from "../../src/config/cli.ts";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { startServer } from "../../src/serve.ts";
import { oneOf, parseFlags } from "../lib/flags.ts";
import { Neighbours, printTable, writeRecord } from "../lib/record.ts";

const flags = parseFlags({ form: "full", json: join(import.meta.dir, "../results/standing-demo.json") });
const isShort = oneOf("form", flags.form, ["full", "short"]) === "short";
const demo = join(import.meta.dir, "../../models/demo");
mkdirSync(dirname(flags.json), { recursive: true });
const beside = (extension: string): string => flags.json.replace(/(\.json)?$/, extension);

const sizes = isShort ? { requests: "4", scale: "0.02", rate: "40" } : { requests: "96", scale: "0.25", rate: "4" };

/** Of one command; several runs where a list was given. */
async function reportsOf(...argv: string[]): Promise<readonly Report[]> {
  const path = beside(".tmp.json");
  const command = parseCommandLine(["bench", ...argv, "--report-json", path], { version: "0", env: {}, readFile: () => "", demo: () => demo });
  if (command.kind !== "bench") throw new Error(`${argv.join(" ")} is no bench`);
  const isGood = await bench(command.resolved.config, command.ask, { write: () => undefined, errors: process.stderr });
  if (!isGood) throw new Error(`requests of ${argv.join(" ")} failed`);
  const written = (await Bun.file(path).json()) as Report | { readonly runs: readonly Report[] };
  await Bun.file(path).delete();
  return "runs" in written ? written.runs : [written];
}

const { config } = resolveConfig(givenOptions({ model: demo, port: 0, logLevel: "error", backend: "wasm", loraConfig: { loraDir: [join(demo, "adapters")], maxLoras: 4 } }, "server"));
const neighbours = new Neighbours();
const results: Record<string, Report> = {};
const local = ["-m", demo, "--backend", "wasm", "--lora-dir", join(demo, "adapters"), "--workload", "punica-uniform", "--length-scale", sizes.scale, "--num-requests", sizes.requests];
[results["throughput"]] = (await reportsOf("throughput", ...local, "--concurrency", "16")) as [Report];
[results["latency"]] = (await reportsOf("latency", ...local, "--num-requests", isShort ? "2" : "16")) as [Report];

const server = await startServer(config);
const served = ["serve", "--base-url", `http://127.0.0.1:${server.http.port}`, "--length-scale", sizes.scale, "--num-requests", sizes.requests];
for (const workload of WORKLOAD_NAMES) {
  // Punica's are a closed loop of 32.
  const load = workload.startsWith("punica") ? ["--concurrency", isShort ? "2" : "32"] : ["--request-rate", sizes.rate];
  [results[workload]] = (await reportsOf(...served, "--workload", workload, ...load)) as [Report];
}
const sweep = await reportsOf(...served, "--workload", "s-lora-s1", "--request-rate", isShort ? "20,40" : "1,2,4,6", "--num-adapters", isShort ? "0,4" : "0,1,4,8", "--plot", beside(".svg"));
for (const report of sweep) results[`s-lora-s1, ${report.world_info.num_adapters} adapters, ${report.world_info.request_rate} requests/s`] = report;
const coresOfOthers = neighbours.cores();
await server.stop();

printTable(
  ["workload", "requests", "tokens/s", "TTFT P50", "TTFT P99", "TPOT P50", "swaps", "device hits"],
  Object.entries(results).map(([name, { request_info: requests, performance, streaming_metrics: streaming, adapter_cache: cache }]) => [
    name, String(requests.num_requests), performance.system_output_throughput_tok_s.toFixed(1), (streaming.ttft_percentiles?.p50 ?? 0).toFixed(1),
    (streaming.ttft_percentiles?.p99 ?? 0).toFixed(1), (streaming.tpot_percentiles?.p50 ?? 0).toFixed(2), String(cache?.swaps ?? "-"), cache?.device_hit_rate?.toFixed(2) ?? "-",
  ]),
);
await writeRecord(flags.json, "workloads/standing", { form: flags.form, sizes, results }, coresOfOthers);
process.exit(0);
