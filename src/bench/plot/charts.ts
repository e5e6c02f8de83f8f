/** One chart each, as Vega-Lite's descriptions. */
import type { TopLevelSpec } from "vega-lite";
import type { Report } from "../report/report.ts";
import { adaptersOf, loadOf } from "../report/sweep.ts";
import type { Moment } from "./timeline.ts";

type Chart = Extract<TopLevelSpec, { readonly vconcat: unknown }>["vconcat"][number];

const WIDTH = 640;
const HEIGHT = 220;
/** Okabe and Ito's, told apart by the colour-blind. */
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/** First token and whole answer against what the run asked for: median and 99th percentile, the latter alone where adapters vary, too. */
export function latencyChart(reports: readonly Report[]): Chart {
  const { values, title } = loads(reports);
  const rows = reports.flatMap((report, i) => {
    const { ttft_percentiles: first } = report.streaming_metrics;
    const whole = report.performance.request_latency_percentiles_ms;
    const figures = { "first token, P50": first?.p50, "first token, P99": first?.p99, "whole answer, P50": whole?.p50, "whole answer, P99": whole?.p99 };
    return Object.entries(figures).flatMap(([figure, ms]) => (ms === undefined ? [] : [{ load: values[i], adapters: `${adaptersOf(report)} adapters`, figure, seconds: ms / 1000 }]));
  });
  const isSeveral = new Set(reports.map(adaptersOf)).size > 1;
  return {
    title: "Latency against load",
    width: WIDTH, height: HEIGHT,
    data: { values: isSeveral ? rows.filter(({ figure }) => figure.endsWith("P99")) : rows },
    // With points, the legend of the dashes would show none.
    mark: { type: "line", point: isSeveral ? false : { size: 45, filled: true } },
    encoding: {
      x: { field: "load", type: typeof values[0] === "number" ? "quantitative" : "ordinal", title, axis: { labelAngle: 0 }, sort: null },
      y: { field: "seconds", type: "quantitative", title: "seconds", scale: { zero: true } },
      color: { field: isSeveral ? "adapters" : "figure", type: "nominal", title: null, sort: null, scale: { range: COLORS } },
      ...(isSeveral ? { strokeDash: { field: "figure", type: "nominal" as const, title: null, sort: null } } : {}),
    },
  };
}

/** Tokens that came out, against how many adapters requests named. */
export function throughputChart(reports: readonly Report[]): Chart {
  const rows = reports.map((report) => ({ adapters: adaptersOf(report), load: loadOf(report), tokens: report.performance.system_output_throughput_tok_s }));
  return {
    title: "Throughput against number of adapters",
    width: WIDTH, height: HEIGHT,
    data: { values: rows },
    mark: { type: "line", point: { size: 45, filled: true } },
    encoding: {
      x: { field: "adapters", type: "ordinal", title: "adapters", axis: { labelAngle: 0 }, sort: "ascending" },
      y: { field: "tokens", type: "quantitative", title: "output tokens/s", scale: { zero: true } },
      color: { field: "load", type: "nominal", title: null, sort: null, scale: { range: COLORS } },
    },
  };
}

/** Of one run: what came out, and over it how many requests waited for their first token and got further ones. */
export function timelineChart(moments: readonly Moment[], subtitle: string): Chart {
  const requests = moments.flatMap(({ atS, waiting, decoding }) => [
    { atS, count: waiting, state: "waiting for the first token" },
    { atS, count: decoding, state: "receiving tokens" },
  ]);
  const x = { field: "atS", type: "quantitative" as const, title: "seconds from the first request" };
  return {
    vconcat: [
      {
        title: { text: "Timeline of the last run", subtitle },
        width: WIDTH, height: HEIGHT / 2,
        data: { values: [...moments] },
        mark: { type: "area", line: true, opacity: 0.35, color: COLORS[0]! },
        encoding: { x: { ...x, title: null }, y: { field: "tokensPerSecond", type: "quantitative", title: "output tokens/s" } },
      },
      {
        width: WIDTH, height: HEIGHT / 2,
        data: { values: requests },
        mark: { type: "area", opacity: 0.7, interpolate: "step" },
        encoding: {
          x,
          y: { field: "count", type: "quantitative", title: "requests", stack: "zero" },
          color: { field: "state", type: "nominal", title: null, sort: null, scale: { range: [COLORS[1]!, COLORS[2]!] } },
        },
      },
    ],
  };
}

/** Numbers where every run has one, words otherwise. */
function loads(reports: readonly Report[]): { readonly values: readonly (number | string)[]; readonly title: string } {
  const limits = reports.map(({ world_info: { concurrency } }) => concurrency);
  if (reports.length === 1) return { values: reports.map(loadOf), title: "load" };
  if (limits.every((limit) => limit !== null)) return { values: limits, title: "requests at once" };
  const rates = reports.map(({ world_info: { request_rate: rate } }) => rate);
  if (rates.every((rate) => typeof rate === "number")) return { values: rates, title: "requests per second" };
  return { values: reports.map(loadOf), title: "load" };
}
