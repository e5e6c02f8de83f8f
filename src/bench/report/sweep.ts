/** Several runs beside each other. */
import { table } from "./print.ts";
import type { Report } from "./report.ts";

export function describeSweep(reports: readonly Report[]): string {
  const ms = (value: number | undefined): string => value?.toFixed(1) ?? "-";
  const rows = reports.map((report) => [
    loadOf(report), String(adaptersOf(report)), report.performance.request_throughput_req_s.toFixed(2), report.performance.system_output_throughput_tok_s.toFixed(1),
    ms(report.streaming_metrics.ttft_percentiles?.p50), ms(report.streaming_metrics.ttft_percentiles?.p99),
    ms(report.streaming_metrics.tpot_percentiles?.p50), ms(report.performance.request_latency_percentiles_ms?.p99), String(report.request_info.num_failed),
  ]);
  return `${table(["Load", "Adapters", "Req/sec", "Tokens/sec", "TTFT P50", "TTFT P99", "TPOT P50", "Latency P99", "Failed"], rows).join("\n")}\n`;
}

/** What the run asked of the target, in words. */
export function loadOf({ world_info: { request_rate: rate, concurrency } }: Report): string {
  if (concurrency !== null) return `${concurrency} at once`;
  return rate === null || rate === "inf" ? "all at once" : `${rate} requests/s`;
}

/** Adapters that requests could name, the base aside. */
export const adaptersOf = ({ world_info: { num_adapters: count } }: Report): number => count;
