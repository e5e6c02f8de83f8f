/** The report as a person reads it: trtllm-bench's sections, then adapters, cache and roofline. */
import type { Percentiles } from "./percentiles.ts";
import type { Report } from "./report.ts";

const RULE = "=".repeat(75);
const MAX_ADAPTERS = 20;

export function printReport(report: Report): string {
  const { engine, world_info: world, request_info: requests, performance, streaming_metrics: streaming, dataset } = report;
  const sections: string[] = [
    section(`${engine.backend.toUpperCase()} BACKEND`, [
      ["Model", engine.model],
      ["Model Path", engine.model_path],
      ["Lorikeet Version", engine.version],
      ["Dtype", engine.dtype],
      ["Quantization", engine.quantization],
    ]),
    section("REQUEST DETAILS", [
      ["Number of requests", requests.num_requests],
      ["Number of failed requests", requests.num_failed],
      ["Number of concurrent requests", fixed(requests.avg_num_concurrent_requests)],
      ["Average Input Length (tokens)", fixed(requests.avg_input_length)],
      ["Average Output Length (tokens)", fixed(requests.avg_output_length)],
      ...requests.errors.slice(0, 5).map(({ message, count }) => [`Error (x${count})`, message] as const),
    ]),
    section("WORLD + RUNTIME INFORMATION", [
      ["TP Size", world.tp_size],
      ["PP Size", world.pp_size],
      ["EP Size", world.ep_size],
      ["Max Runtime Batch Size", world.max_batch_size],
      ["Max Runtime Tokens", world.max_num_tokens],
      ["Concurrency", world.concurrency],
      ["Request Rate (req/sec)", world.request_rate],
      ["Issue Rate (req/sec)", fixed(world.issue_rate)],
      ["Send Lag P50, P99 (ms)", requests.send_lag_percentiles_ms === null ? null : `${fixed(requests.send_lag_percentiles_ms.p50)}, ${fixed(requests.send_lag_percentiles_ms.p99)}`],
    ]),
    section("PERFORMANCE OVERVIEW", [
      ["Request Throughput (req/sec)", fixed(performance.request_throughput_req_s)],
      ["Total Output Throughput (tokens/sec)", fixed(performance.system_output_throughput_tok_s)],
      ["Total Token Throughput (tokens/sec)", fixed(performance.system_total_throughput_tok_s)],
      ["Total Latency (ms)", fixed(performance.total_latency_ms)],
      ["Average request latency (ms)", fixed(performance.avg_request_latency_ms)],
      ["Per User Output Throughput [w/ ctx] (tps/user)", fixed(performance.output_throughput_per_user_tok_s)],
      ["Per GPU Output Throughput (tps/gpu)", fixed(performance.output_throughput_per_gpu_tok_s)],
      ["Average time-to-first-token [TTFT] (ms)", fixed(streaming.avg_ttft_ms)],
      ["Average time-per-output-token [TPOT] (ms)", fixed(streaming.avg_tpot_ms)],
      ["Per User Output Speed (tps/user)", fixed(streaming.token_output_speed_tok_s)],
      ["First token within 6 s", percent(streaming.attainment_6s)],
    ]),
    breakdown("Request Latency Breakdown (ms)", "Latency", performance.request_latency_percentiles_ms),
    breakdown("Time-to-First-Token [TTFT] Breakdown (ms)", "TTFT", streaming.ttft_percentiles),
    breakdown("Time-per-Output-Token [TPOT] Breakdown (ms)", "TPOT", streaming.tpot_percentiles),
    breakdown("Inter-Token Latency [ITL] Breakdown (ms)", "ITL", streaming.itl_percentiles),
    breakdown("Generation Speed [GTPS] Breakdown (tps/user)", "GTPS", streaming.gen_tps_percentiles),
    adapterSection(report),
    datasetSection(dataset),
  ];
  return `${sections.filter((text) => text !== "").join("\n")}\n`;
}

function adapterSection({ adapters, fairness, adapter_cache: cache, roofline }: Report): string {
  const rows = adapters.slice(0, MAX_ADAPTERS).map((each) => [
    each.name ?? "(base)", String(each.num_requests), fixed(each.output_throughput_tok_s),
    fixed(each.ttft_percentiles?.p50), fixed(each.ttft_percentiles?.p99), fixed(each.tpot_percentiles?.p50), fixed(each.request_latency_percentiles_ms?.p99),
  ]);
  const lines = table(["Adapter", "Requests", "Tokens/sec", "TTFT P50", "TTFT P99", "TPOT P50", "Latency P99"], rows);
  if (adapters.length > MAX_ADAPTERS) lines.push(`and ${adapters.length - MAX_ADAPTERS} more; --report_json has them all`);
  const facts: Fact[] = [];
  if (cache !== null) {
    facts.push(["Swaps to the device", cache.swaps], ["Adapters read", cache.loads], ["Preemptions", cache.preemptions]);
    facts.push(["Device hit rate", percent(cache.device_hit_rate)], ["Host hit rate", percent(cache.host_hit_rate)]);
  }
  if (fairness !== null) {
    facts.push([`Service while both wait, ${fairness.adapters.join(" and ")}`, fairness.service.join(" and ")], ["Largest gap of service (prompt + 2 x output tokens)", fairness.max_gap]);
  }
  if (roofline !== null) {
    facts.push(["Memory read rate (GB/s)", fixed(roofline.memory_bytes_per_s / 1e9)], ["Steps", roofline.steps]);
    facts.push(["Share of roofline (weights read once a step)", percent(roofline.share_of_roofline)]);
  }
  return [RULE, "= ADAPTERS", RULE, ...lines, ...(facts.length === 0 ? [] : ["", ...factLines(facts)]), ""].join("\n");
}

function datasetSection({ dataset_path: path, num_requests: count, isl_stats: isl, osl_stats: osl, seq_len_stats: seq }: Report["dataset"]): string {
  const row = (name: string, stats: Percentiles | null): string[] =>
    stats === null ? [] : [name, ...[stats.minimum, stats.maximum, stats.average, stats.p50, stats.p90, stats.p95, stats.p99].map(fixed)];
  const rows = [row("Input", isl), row("Output", osl), row("Seq. Length", seq)].filter((each) => each.length > 0);
  return [
    RULE, "= DATASET DETAILS", RULE, ...factLines([["Dataset Path", path], ["Number of Sequences", count]]), "",
    "-- Percentiles statistics ---------------------------------",
    ...table(["", "MIN", "MAX", "AVG", "P50", "P90", "P95", "P99"], rows), RULE,
  ].join("\n");
}

type Fact = readonly [label: string, value: string | number | null];

const section = (title: string, facts: readonly Fact[]): string => [RULE, `= ${title}`, RULE, ...factLines(facts), ""].join("\n");

function factLines(facts: readonly Fact[]): string[] {
  const known = facts.filter(([, value]) => value !== null);
  const width = Math.max(...known.map(([label]) => label.length)) + 1;
  return known.map(([label, value]) => `${`${label}:`.padEnd(width)} ${value}`);
}

function breakdown(title: string, word: string, percentiles: Percentiles | null): string {
  if (percentiles === null) return "";
  const { p50, p90, p95, p99, minimum, maximum, average } = percentiles;
  const facts = { P50: p50, P90: p90, P95: p95, P99: p99, MINIMUM: minimum, MAXIMUM: maximum, AVERAGE: average };
  return [`-- ${title} `.padEnd(59, "-"), ...Object.entries(facts).map(([name, value]) => `[${word}] ${name.padEnd(7)}: ${fixed(value)}`), ""].join("\n");
}

/** Fixed-width columns; numbers align right. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = header.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]!.length)));
  return [header, ...rows].map((cells) => cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ").trimEnd());
}

const fixed = (value: number | null | undefined): string => (value === null || value === undefined ? "-" : value.toFixed(4));
const percent = (share: number | null): string | null => (share === null ? null : `${(100 * share).toFixed(1)} %`);
