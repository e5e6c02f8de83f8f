/** Runs as pictures: latency against load, throughput against adapters, and what happened when. */
import * as vega from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import type { RequestRecord } from "../load/drive.ts";
import type { Report } from "../report/report.ts";
import { adaptersOf, loadOf } from "../report/sweep.ts";
import { latencyChart, throughputChart, timelineChart } from "./charts.ts";
import { timelineOf } from "./timeline.ts";

export interface Run {
  readonly report: Report;
  readonly records: readonly RequestRecord[];
}

/** @param runs at least one @returns a file of its own, which loads nothing from anywhere */
export async function plotRuns(runs: readonly Run[], format: "svg" | "html"): Promise<string> {
  const last = runs.at(-1)!;
  const title = `${last.report.engine.model}, ${last.report.dataset.dataset_path}`;
  const charts = [
    latencyChart(runs.map(({ report }) => report)),
    throughputChart(runs.map(({ report }) => report)),
    timelineChart(timelineOf(last.records), `${loadOf(last.report)}, ${adaptersOf(last.report)} adapters`),
  ];
  const whole: TopLevelSpec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    title: { text: title, anchor: "start", fontSize: 15, offset: 16 },
    background: "white",
    padding: 16,
    spacing: 36,
    vconcat: charts,
    resolve: { scale: { color: "independent", strokeDash: "independent" } },
    config: CONFIG,
  };
  const svg = await render(whole);
  return format === "svg" ? svg : page(title, svg, runs.map(({ report }) => report));
}

async function render(spec: TopLevelSpec): Promise<string> {
  const view = new vega.View(vega.parse(compile(spec).spec), { renderer: "none", logLevel: vega.Warn });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

const CONFIG = {
  font: "system-ui, sans-serif",
  axis: { labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridColor: "#e6e6e6", domainColor: "#888", tickColor: "#888" },
  legend: { orient: "bottom", direction: "horizontal", labelLimit: 240, labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal" },
  title: { fontSize: 13, fontWeight: 600 },
  view: { stroke: null },
} as const;

function page(title: string, svg: string, reports: readonly Report[]): string {
  // A closing tag inside a string would end the script early.
  const data = JSON.stringify(reports).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>body{margin:0;background:#fff}svg{display:block;max-width:100%;height:auto;margin:0 auto}</style>
${svg}
<script type="application/json" id="reports">${data}</script>
</html>
`;
}

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
