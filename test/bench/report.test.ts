import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { RequestRecord } from "../../src/bench/load/drive.ts";
import recordedFairness from "../../bench/results/fairness-demo.json" with { type: "json" };
import { timelineOf } from "../../src/bench/plot/timeline.ts";
import { plotRuns } from "../../src/bench/plot/plot-runs.ts";
import { benchProgress } from "../../src/bench/progress.ts";
import { fairnessOf } from "../../src/bench/report/fairness.ts";
import { percentilesOf } from "../../src/bench/report/percentiles.ts";
import { printReport } from "../../src/bench/report/print.ts";
import { reportOf, type RunFacts } from "../../src/bench/report/report.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const facts: RunFacts = {
  model: "m<&>", modelPath: null, version: "1", backend: "wasm", dtype: "int8", maxBatchSize: 4, maxNumTokens: 8, requestRate: 2, concurrency: null,
  datasetPath: "d", adapters: ["sql", "pirate"], numAdapters: 2, seed: 1,
};
const counters = { adapterLoads: 0, adapterEvictions: 0, slotsUsed: 0, steps: 0, preemptions: 0, computeMs: 0 };
const record = (more: Partial<RequestRecord>): RequestRecord => ({
  index: 0, adapter: null, dueMs: 0, sentMs: 0, firstMs: 10, endMs: 31, promptTokens: 5, outputTokens: 3, text: "t", error: null,
  pieces: [{ atMs: 10, tokens: 1 }, { atMs: 20, tokens: 1 }, { atMs: 30, tokens: 1 }],
  ...more,
});
const records = [
  record({}),
  record({ index: 1, adapter: 0, dueMs: 500, sentMs: 501, firstMs: 540, endMs: 1000, outputTokens: 5, pieces: [{ atMs: 540, tokens: 1 }, { atMs: 940, tokens: 4 }] }),
  record({ index: 2, adapter: 1, dueMs: 900, sentMs: 900, firstMs: null, endMs: 950, outputTokens: 0, pieces: [], error: "429: full" }),
];
const counted = {
  before: counters,
  after: { adapterLoads: 1, adapterEvictions: 1, slotsUsed: 1, steps: 100, preemptions: 2, computeMs: 250 },
  roofline: { weightBytes: 1e6, bytesPerSecond: 1e9 },
};
const report = reportOf(records, facts, counted);

describe("percentiles", () => {
  test("are the values at floor(n * p), as trtllm-bench's", () => {
    const hundred = Array.from({ length: 100 }, (_, i) => 99 - i);
    expect(percentilesOf(hundred)).toEqual({ p50: 50, p90: 90, p95: 95, p99: 99, minimum: 0, maximum: 99, average: 49.5 });
    expect(percentilesOf([7])).toEqual({ p50: 7, p90: 7, p95: 7, p99: 7, minimum: 7, maximum: 7, average: 7 });
    expect(percentilesOf([])).toBeNull();
  });

  test("are among the values and in order", () => {
    fc.assert(
      fc.property(fc.array(fc.double({ noNaN: true, min: -1e9, max: 1e9 }), { minLength: 1 }), (values) => {
        const { p50, p90, p95, p99, minimum, maximum } = percentilesOf(values)!;
        const order = [minimum, p50, p90, p95, p99, maximum];
        expect(order.every((each) => values.some((value) => value === each))).toBe(true);
        expect(order.every((each, i) => i === 0 || each >= order[i - 1]!)).toBe(true);
      }),
    );
  });
});

describe("the report", () => {
  test("counts latency from the time when a request was due, and failures nowhere else", () => {
    expect(report.request_info).toMatchObject({ num_requests: 3, num_failed: 1, errors: [{ message: "429: full", count: 1 }], avg_input_length: 5, avg_output_length: 4 });
    expect(report.request_info.send_lag_percentiles_ms).toMatchObject({ p50: 0, maximum: 1 });
    expect(report.performance).toMatchObject({ total_latency_ms: 1000, request_throughput_req_s: 2, system_output_throughput_tok_s: 8, system_total_throughput_tok_s: 18 });
    expect(report.performance.request_latency_percentiles_ms).toMatchObject({ minimum: 31, maximum: 500 });
    expect(report.streaming_metrics.ttft_percentiles).toMatchObject({ minimum: 10, maximum: 40 });
    expect(report.streaming_metrics.tpot_percentiles).toMatchObject({ minimum: 10, maximum: 100 });
    expect(report.streaming_metrics.itl_percentiles).toMatchObject({ minimum: 10, maximum: 100 });
  });

  test("has figures for each adapter, its cache and the roofline", () => {
    expect(report.adapters.map(({ name, num_requests: count, output_tokens: tokens }) => [name, count, tokens])).toEqual([[null, 1, 3], ["sql", 1, 5]]);
    expect(report.adapter_cache).toEqual({ swaps: 2, evictions: 1, loads: 1, device_hit_rate: 0, host_hit_rate: 0.5, preemptions: 2 });
    expect(report.roofline).toEqual({ steps: 100, weight_bytes: 1e6, memory_bytes_per_s: 1e9, least_ms: 100, share_of_roofline: 0.1, compute_share: 0.25 });
  });

  test("has every key of trtllm-bench's and is JSON without holes", () => {
    const written = JSON.parse(JSON.stringify(report)) as Record<string, Record<string, unknown>>;
    expect(written).toEqual(report as never);
    const keys = {
      engine: ["model", "model_path", "engine_dir", "version", "backend", "dtype", "kv_cache_dtype", "quantization"],
      world_info: ["tp_size", "pp_size", "ep_size", "world_size", "max_batch_size", "max_num_tokens", "scheduling_policy", "kv_cache_percentage", "issue_rate"],
      request_info: ["num_requests", "avg_num_concurrent_requests", "avg_input_length", "avg_output_length"],
      performance: ["total_latency_ms", "avg_request_latency_ms", "request_throughput_req_s", "system_output_throughput_tok_s", "system_total_throughput_tok_s", "output_throughput_per_user_tok_s", "output_throughput_per_gpu_tok_s", "request_latency_percentiles_ms"],
      streaming_metrics: ["token_output_speed_tok_s", "avg_ttft_ms", "avg_tpot_ms", "tpot_percentiles", "ttft_percentiles", "gen_tps_percentiles"],
      dataset: ["isl_stats", "osl_stats", "seq_len_stats", "num_requests", "dataset_path", "max_isl", "max_osl", "max_sequence_length", "avg_isl", "avg_osl", "avg_sequence_length"],
    };
    for (const [section, names] of Object.entries(keys)) expect(Object.keys(written[section]!)).toEqual(expect.arrayContaining(names));
  });

  test("is printed with trtllm-bench's labels", () => {
    const text = printReport(report);
    for (const label of ["= PERFORMANCE OVERVIEW", "Request Throughput (req/sec):", "Total Output Throughput (tokens/sec):", "[TTFT] P99", "[Latency] AVERAGE", "= DATASET DETAILS", "Error (x1):"]) expect(text).toContain(label);
    expect(text).toMatch(/^sql +1 +5\.0000/m);
    expect(text).toContain("Share of roofline (weights read once a step): 10.0 %");
    expect(text).not.toContain("undefined");
    expect(text).not.toContain("NaN");
  });

  test("takes runs of any length", () => {
    const many = Array.from({ length: 200_000 }, (_, index) => record({ index, dueMs: index, sentMs: index, endMs: index + 5, pieces: [] }));
    expect(reportOf(many, facts, counted).performance.total_latency_ms).toBe(200_004);
    expect(timelineOf(many)).toHaveLength(120);
  });

  test("of a run in which everything failed has no figure that is not one", () => {
    const none = reportOf([records[2]!], facts, { before: null, after: null, roofline: null });
    expect(JSON.parse(JSON.stringify(none))).toEqual(none as never);
    expect(printReport(none)).not.toMatch(/NaN|undefined|Infinity/);
  });
});

describe("fairness", () => {
  const served = (index: number, adapter: number, sentMs: number, endMs: number, times: readonly number[]): RequestRecord =>
    record({ index, adapter, dueMs: sentMs, sentMs, firstMs: times[0]!, endMs, outputTokens: times.length, pieces: times.map((atMs) => ({ atMs, tokens: 1 })) });

  test("counts only while both have requests under way, and the gap from then on", () => {
    // The first has 5 + 2 before the second comes, then 2 + 2; the second 5 + 2, and 2 once the first is gone.
    const figures = fairnessOf([served(0, 1, 0, 50, [10, 30, 40]), served(1, 0, 20, 90, [45, 80])], ["sql", "pirate"]);
    expect(figures).toEqual({ adapters: ["sql", "pirate"], service: [7, 4], max_gap: 4 });
  });

  test("counts tokens that came in no piece of their own with the pieces", () => {
    const hidden = { ...served(1, 0, 0, 90, [45, 80]), outputTokens: 6 };
    expect(fairnessOf([served(0, 1, 0, 95, [10, 30, 40]), hidden], ["sql", "pirate"])).toMatchObject({ service: [17, 11] });
  });

  test("is no figure of one adapter", () => {
    expect(fairnessOf([served(0, 1, 0, 50, [10]), record({})], ["sql", "pirate"])).toBeNull();
  });
});

describe("pictures", () => {
  test("show the charts, and a page carries the reports without markup of the model's name", async () => {
    const svg = await plotRuns([{ report, records }], "svg");
    expect(svg).toStartWith("<svg");
    for (const text of ["Latency against load", "Throughput against number of adapters", "Timeline of the last run", "output tokens/s"]) expect(svg).toContain(text);
    const html = await plotRuns([{ report, records }, { report: { ...report, world_info: { ...report.world_info, num_adapters: 9 } }, records }], "html");
    expect(html).toContain("<title>m&lt;&amp;>, d</title>");
    expect(html).toContain("9 adapters");
    const data = /<script type="application\/json" id="reports">(.*?)<\/script>/s.exec(html)![1]!;
    expect((JSON.parse(data) as { engine: { model: string } }[]).map(({ engine }) => engine.model)).toEqual(["m<&>", "m<&>"]);
    expect(html).not.toContain("http-equiv");
    expect(html.replaceAll(/xmlns(:\w+)?="[^"]*"/g, "")).not.toMatch(/(src|href)="http/);
  });

  test("a timeline has every token and every request", () => {
    const moments = timelineOf(records);
    const stretchS = 2 * moments[0]!.atS;
    expect(moments.reduce((sum, { tokensPerSecond }) => sum + tokensPerSecond * stretchS, 0)).toBeCloseTo(8, 6);
    expect(moments.at(-1)).toMatchObject({ waiting: 0, decoding: 0 });
    expect(moments[5]).toMatchObject({ waiting: 0, decoding: 1 });
    expect(timelineOf([])).toEqual([]);
  });
});

describe("progress", () => {
  const told = (output: { isTTY?: boolean; columns?: number }) => {
    const lines: string[] = [];
    const tell = benchProgress({ ...output, write: (text: string) => lines.push(text) }, "serve");
    for (const [elapsedMs, ended] of [[50, 1], [120, 2], [9_000, 3], [10_001, 4], [10_500, 5], [10_600, 6]] as const) {
      tell({ total: 6, sent: 6, ended, failed: 1, outputTokens: 10 * ended, elapsedMs });
    }
    return lines;
  };

  test("is a line now and then without a terminal, and one at the end", () => {
    expect(told({})).toEqual([
      "serve: 4 of 6 answered, 1 failed, 2 under way, 4 tokens/s, 10.0 s\n",
      "serve: 6 of 6 answered, 1 failed, 0 under way, 6 tokens/s, 10.6 s\n",
    ]);
  });

  test("is one line that changes and fits in a terminal", () => {
    const lines = told({ isTTY: true, columns: 40 });
    expect(lines.length).toBeGreaterThan(2);
    expect(lines.every((line) => line.startsWith("\r\u001b[2K") && line.replace("\r\u001b[2K", "").trimEnd().length < 40)).toBe(true);
    expect(lines.filter((line) => line.endsWith("\n"))).toEqual([lines.at(-1)!]);
  });
});

test("docs/fairness.md has the figures on record", () => {
  const { results } = recordedFairness.results;
  const page = readFileSync(join(REPOSITORY, "docs/fairness.md"), "utf8");
  const shown = (values: readonly number[], unit = "") => values.map((value) => value.toLocaleString("en", { maximumFractionDigits: 1 }) + unit).join(" and ");
  for (const [name, { fairness, adapters }] of Object.entries(results)) {
    const waits = adapters.map(({ ttft_percentiles: percentiles }) => percentiles.p50 / 1000);
    expect(page).toContain(`| ${name} | ${shown(fairness.service)} | ${shown([fairness.max_gap])} | ${shown(waits, " s")} |`);
  }
  for (const { fairness } of [results["two keys, an adapter each"], results["two keys, one adapter"]]) expect(fairness.max_gap).toBeLessThan(1536);
});
