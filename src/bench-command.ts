/** `lorikeet bench`: loads, where they go, and what is written of them. */
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import packageJson from "../package.json" with { type: "json" };
import { memoryRateOf } from "./backend/cuda/memory-rate.ts";
import { measureReadRate } from "./backend/wasm/read-loop.ts";
import { drive, type RequestRecord } from "./bench/load/drive.ts";
import { openAiTarget } from "./bench/load/openai-target.ts";
import { runtimeTarget } from "./bench/load/runtime-target.ts";
import type { Target } from "./bench/load/target.ts";
import { benchProgress } from "./bench/progress.ts";
import { printReport } from "./bench/report/print.ts";
import { type Report, reportOf, type Roofline, type RunFacts } from "./bench/report/report.ts";
import { describeSweep } from "./bench/report/sweep.ts";
import { type DatasetRow, parseDataset } from "./bench/workload/dataset.ts";
import { type Point, pointsOf } from "./bench/workload/points.ts";
import { datasetTrace, NAME_SOME, namedTrace, workloadOf, WORKLOADS } from "./bench/workload/workloads.ts";
import { parsePopularity } from "./bench/workload/popularity.ts";
import { prepareDataset } from "./bench-dataset.ts";
import type { BenchAsk } from "./config/bench-flags.ts";
import type { Config } from "./config/settings.ts";
import { ConfigError } from "./core/errors.ts";
import { downloadProgress } from "./download-progress.ts";
import { weightsProgress } from "./weights-progress.ts";
import { openRuntime } from "./runtime/open-runtime.ts";
import type { AdapterReference } from "./runtime/runtime.ts";

export interface BenchOutput {
  readonly write: (text: string) => void;
  readonly errors: NodeJS.WriteStream;
}

type LoadAsk = Extract<BenchAsk, { readonly mode: "throughput" | "latency" | "serve" }>;

/** What is measured, opened. */
interface Bench {
  readonly target: Target;
  readonly facts: Pick<RunFacts, "modelPath" | "backend" | "dtype" | "maxBatchSize" | "maxNumTokens">;
  readonly vocabSize: number;
  readonly roofline: Roofline | null;
  /** Requests sent at once where nobody limits them. */
  readonly mostAtOnce: number;
  readonly close: () => Promise<void>;
}

/** @returns whether every request was answered @throws {LorikeetError} */
export async function bench(config: Config, ask: BenchAsk, output: BenchOutput): Promise<boolean> {
  switch (ask.mode) {
    case "workloads":
      for (const [name, { doc }] of Object.entries(WORKLOADS)) output.write(`${name.padEnd(18)}${doc}\n`);
      return true;
    case "token-norm-dist":
    case "token-unif-dist":
    case "real-dataset":
      output.write(await prepareDataset(config, ask));
      return true;
    default:
      return measure(config, ask, output);
  }
}

async function measure(config: Config, ask: LoadAsk, output: BenchOutput): Promise<boolean> {
  const points = pointsOf(ask);
  if ((ask.dataset === null) === (ask.workload === null)) {
    throw new ConfigError("config_invalid", "give either --dataset FILE or --workload NAME; lorikeet bench prepare-dataset makes data sets, lorikeet bench workloads lists workloads", { field: "--dataset" });
  }
  if (ask.plot !== null && !/\.(svg|html)$/.test(ask.plot)) throw new ConfigError("config_invalid", `--plot must end with .svg or .html, got "${ask.plot}"`, { field: "--plot" });
  const rows = ask.dataset === null ? null : parseDataset(readText("--dataset", ask.dataset), ask.dataset);
  const traceOf = tracesOf(ask, rows);
  const opened = ask.mode === "serve" ? await openServer(config, ask, rows) : await openLocal(config, rows, output);
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  const runs: { readonly report: Report; readonly records: readonly RequestRecord[] }[] = [];
  try {
    for (const point of points) {
      const trace = traceOf(opened, point);
      await warmUp(opened.target, trace.slice(0, ask.warmup), stop.signal);
      if (stop.signal.aborted) break;
      const before = await opened.target.counters();
      const concurrency = ask.mode === "latency" ? 1 : (point.concurrency ?? (ask.mode === "throughput" ? opened.mostAtOnce : null));
      const rate = ask.mode === "serve" && point.concurrency === null ? (point.requestRate ?? workloadRate(ask)) : null;
      const records = await drive(trace, opened.target, { concurrency, signal: stop.signal, onProgress: benchProgress(output.errors, point.name) });
      const after = await opened.target.counters();
      const facts: RunFacts = {
        ...opened.facts, model: opened.target.model, version: packageJson.version, requestRate: rate, concurrency: point.concurrency ?? (ask.mode === "latency" ? 1 : null),
        datasetPath: ask.dataset ?? `workload ${ask.workload}`, adapters: opened.target.adapters,
        numAdapters: rows === null ? adaptersUsed(ask, point, opened.target.adapters.length) : opened.target.adapters.length, seed: ask.dataset === null ? ask.randomSeed : null,
      };
      const report = reportOf(records, facts, { before, after, roofline: opened.roofline });
      runs.push({ report, records });
      output.write(printReport(report));
      if (stop.signal.aborted) break;
    }
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
    await opened.close();
  }
  if (runs.length > 1) output.write(describeSweep(runs.map(({ report }) => report)));
  await write(ask, runs);
  return runs.length === points.length && runs.every(({ report }) => report.request_info.num_failed === 0);
}

/** How the requests of a point come about, with everything checked that needs no target. */
function tracesOf(ask: LoadAsk, rows: readonly DatasetRow[] | null) {
  const rateOf = (point: Point): { rate: number | null; cv: number | null } => ({
    rate: point.requestRate,
    cv: ask.mode === "serve" ? ask.burstiness : null,
  });
  if (rows !== null) {
    return (_: Bench, point: Point) => datasetTrace(rows, { ...rateOf(point), numRequests: ask.numRequests || null, seed: ask.randomSeed });
  }
  const name = workloadOf(ask.workload!);
  const popularity = ask.popularity === null ? null : parsePopularity(ask.popularity);
  return ({ target, vocabSize }: Bench, point: Point) =>
    namedTrace(name, {
      seed: ask.randomSeed, vocabSize, popularity, lengthScale: ask.lengthScale, durationS: ask.duration, ...rateOf(point),
      numAdapters: adaptersUsed(ask, point, target.adapters.length), numRequests: ask.numRequests || null,
    });
}

const workloadRate = (ask: LoadAsk): number => (ask.workload === null ? Infinity : WORKLOADS[workloadOf(ask.workload)].rate);

function adaptersUsed({ workload }: LoadAsk, { numAdapters }: Point, atHand: number): number {
  const most = workload === "base-only" ? 0 : workload === "fairness" ? 2 : Infinity;
  if (numAdapters === null && atHand === 0 && most > 0) throw new ConfigError("config_invalid", `there are no adapters; ${NAME_SOME}, or measure the base model with --num-adapters 0`, { field: "--workload" });
  const wished = numAdapters ?? atHand;
  if (wished <= atHand) return Math.min(wished, most);
  throw new ConfigError("config_invalid", `--num-adapters ${wished} is more than the ${atHand} at hand; ${NAME_SOME}`, { field: "--num-adapters" });
}

/** Adapters of a data set in the order of their first row. */
const referencesOf = (rows: readonly DatasetRow[]): AdapterReference[] => {
  const byName = new Map(rows.flatMap(({ lora }) => (lora === null ? [] : [[lora.name, lora] as const])));
  return [...byName.values()].map(({ name, intId, path }) => ({ name, intId, ...(path === "" ? {} : { path }) }));
};

async function openServer(config: Config, ask: Extract<LoadAsk, { readonly mode: "serve" }>, rows: readonly DatasetRow[] | null): Promise<Bench> {
  const named = rows === null ? (ask.loraModules.length === 0 ? null : ask.loraModules) : referencesOf(rows).map(({ name }) => name);
  const target = await openAiTarget({ baseUrl: ask.baseUrl, apiKeys: ask.apiKey.length > 0 ? ask.apiKey : config.apiKey.slice(0, 1), model: ask.model, adapters: named, endpoint: ask.endpoint });
  const facts = { modelPath: null, backend: ask.baseUrl, dtype: null, maxBatchSize: null, maxNumTokens: null };
  return { target, facts, vocabSize: ask.vocabSize, roofline: null, mostAtOnce: Infinity, close: async () => undefined };
}

async function openLocal(config: Config, rows: readonly DatasetRow[] | null, { errors }: BenchOutput): Promise<Bench> {
  const { runtime, served, refused } = await openRuntime({ ...config, onSource: downloadProgress(errors), onWeights: weightsProgress(errors) });
  try {
    const [first] = refused;
    if (first !== undefined) throw first.error;
    const target = await runtimeTarget(runtime, rows === null ? served.map(({ name }) => ({ name })) : referencesOf(rows));
    const { name, description, weightBytes, maxSequences, maxRows } = runtime.backend;
    const bytesPerSecond = name === "wasm" ? await measureReadRate(weightBytes, config.threads ?? availableParallelism()) : memoryRateOf(description);
    const facts = { modelPath: config.model, backend: name, dtype: config.dtype === "auto" ? "bfloat16" : config.dtype, maxBatchSize: maxSequences, maxNumTokens: maxRows };
    return {
      target, facts, vocabSize: runtime.model.program.vocabSize, mostAtOnce: config.maxQueue,
      roofline: bytesPerSecond === null ? null : { weightBytes, bytesPerSecond },
      close: () => runtime.close(0),
    };
  } catch (thrown) {
    await runtime.close(0);
    throw thrown;
  }
}

/** @throws what the first failing request does: nothing after it would be better */
async function warmUp(target: Target, trace: Parameters<typeof drive>[0], signal: AbortSignal): Promise<void> {
  const records = await drive(trace, target, { concurrency: Math.max(1, trace.length), signal });
  const failed = records.find(({ error }) => error !== null);
  if (failed !== undefined && !signal.aborted) throw new ConfigError("config_invalid", `the warm-up failed: ${failed.error}`, { field: "--warmup" });
}

async function write(ask: LoadAsk, runs: readonly { readonly report: Report; readonly records: readonly RequestRecord[] }[]): Promise<void> {
  const save = (path: string | null, content: unknown): void => {
    if (path !== null) writeFileSync(path, `${JSON.stringify(content, null, 1)}\n`);
  };
  const one = <T, U>(list: readonly T[], to: (each: T) => U): U | readonly U[] => (list.length === 1 ? to(list[0]!) : list.map(to));
  save(ask.reportJson, runs.length === 1 ? runs[0]!.report : { runs: runs.map(({ report }) => report) });
  save(ask.outputJson, one(runs, ({ records }) => Object.fromEntries(records.map(({ index, text }) => [index, text]))));
  save(ask.requestJson, one(runs, ({ records }) => records.map((record) => ({ ...record, text: undefined }))));
  if (ask.plot !== null && runs.length > 0) {
    const { plotRuns } = await import("./bench/plot/plot-runs.ts");
    writeFileSync(ask.plot, await plotRuns(runs, ask.plot.endsWith(".html") ? "html" : "svg"));
  }
}

function readText(flag: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new ConfigError("config_invalid", `${flag} ${path} cannot be read; lorikeet bench prepare-dataset writes such a file`, { field: flag, cause });
  }
}
