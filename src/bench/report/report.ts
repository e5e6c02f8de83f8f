/** From records to figures: trtllm-bench's report, and what it lacks for adapters. */
import type { RequestRecord } from "../load/drive.ts";
import type { TargetCounters } from "../load/target.ts";
import { fairnessOf } from "./fairness.ts";
import { least, mean, most, type Percentiles, percentilesOf } from "./percentiles.ts";

export interface RunFacts {
  readonly model: string;
  readonly modelPath: string | null;
  readonly version: string;
  /** `wasm`, `cuda`, or the address of a server. */
  readonly backend: string;
  readonly dtype: string | null;
  readonly maxBatchSize: number | null;
  readonly maxNumTokens: number | null;
  /** Requests per second; `null` for a closed loop, infinite for all at once. */
  readonly requestRate: number | null;
  readonly concurrency: number | null;
  readonly datasetPath: string;
  readonly adapters: readonly string[];
  /** Of these, how many requests could name. */
  readonly numAdapters: number;
  readonly seed: number | null;
}

export interface Counted {
  readonly before: TargetCounters | null;
  readonly after: TargetCounters | null;
  readonly roofline: Roofline | null;
}

export interface Roofline {
  /** Bytes of weights that a step reads once. */
  readonly weightBytes: number;
  /** What the machine's memory gave a plain read loop just before, or gives by the device's sheet. */
  readonly bytesPerSecond: number;
}

export type Report = ReturnType<typeof reportOf>;

/** Times are milliseconds, rates per second. Requests that failed count in `request_info.num_failed` and nowhere else. */
export function reportOf(records: readonly RequestRecord[], facts: RunFacts, counted: Counted) {
  const good = records.filter(({ error }) => error === null);
  const errors = Object.entries(Object.groupBy(records.flatMap(({ error }) => error ?? []), (message) => message)).map(([message, list]) => ({ message, count: list!.length }));
  const startMs = least(records.map(({ sentMs }) => sentMs));
  const totalMs = records.length === 0 ? 0 : most(records.map(({ endMs }) => endMs)) - startMs;
  const perSecond = (amount: number): number => (totalMs === 0 ? 0 : (amount * 1000) / totalMs);
  const outputTokens = sum(good, ({ outputTokens: tokens }) => tokens);
  const promptTokens = sum(good, ({ promptTokens: tokens }) => tokens);
  const latencies = good.map(latencyOf);
  const lastSentMs = most(records.map(({ sentMs }) => sentMs));
  const late = records.flatMap(({ dueMs, sentMs }) => (dueMs === null ? [] : [sentMs - dueMs]));
  const { ttft, tpot, itl } = timesOf(good);
  return {
    engine: {
      model: facts.model, model_path: facts.modelPath, engine_dir: null, version: facts.version,
      backend: facts.backend, dtype: facts.dtype, kv_cache_dtype: null, quantization: facts.dtype === "int8" ? "W8A16" : null,
    },
    world_info: {
      tp_size: 1, pp_size: 1, ep_size: 1, world_size: 1,
      max_batch_size: facts.maxBatchSize, max_num_tokens: facts.maxNumTokens, scheduling_policy: null, kv_cache_percentage: null,
      issue_rate: lastSentMs > startMs ? (1000 * records.length) / (lastSentMs - startMs) : null,
      request_rate: facts.requestRate === Infinity ? "inf" : facts.requestRate,
      concurrency: facts.concurrency,
      num_adapters: facts.numAdapters,
      seed: facts.seed,
    },
    request_info: {
      num_requests: records.length,
      num_failed: records.length - good.length,
      errors,
      avg_num_concurrent_requests: totalMs === 0 ? 0 : sum(good, latencyOf) / totalMs,
      avg_input_length: mean(good.map((record) => record.promptTokens)),
      avg_output_length: mean(good.map((record) => record.outputTokens)),
      /** How late requests were sent: what the load generator itself is to blame for. */
      send_lag_percentiles_ms: percentilesOf(late),
    },
    performance: {
      total_latency_ms: totalMs,
      avg_request_latency_ms: mean(latencies),
      request_throughput_req_s: perSecond(good.length),
      system_output_throughput_tok_s: perSecond(outputTokens),
      system_total_throughput_tok_s: perSecond(outputTokens + promptTokens),
      output_throughput_per_user_tok_s: mean(good.map((record) => (1000 * record.outputTokens) / latencyOf(record))),
      output_throughput_per_gpu_tok_s: perSecond(outputTokens),
      request_latency_percentiles_ms: percentilesOf(latencies),
    },
    streaming_metrics: {
      token_output_speed_tok_s: mean(tpot.map((ms) => 1000 / ms)),
      avg_ttft_ms: mean(ttft),
      avg_tpot_ms: mean(tpot),
      ttft_percentiles: percentilesOf(ttft),
      tpot_percentiles: percentilesOf(tpot),
      itl_percentiles: percentilesOf(itl),
      /** Part of all requests whose first token came within S-LoRA's 6 seconds. */
      attainment_6s: records.length === 0 ? 0 : ttft.filter((ms) => ms < ATTAINED_MS).length / records.length,
      gen_tps_percentiles: percentilesOf(tpot.map((ms) => 1000 / ms)),
    },
    adapters: adapterFigures(good, facts.adapters, totalMs),
    fairness: fairnessOf(good, facts.adapters),
    adapter_cache: cacheFigures(good, counted),
    roofline: rooflineFigures(counted, totalMs),
    dataset: datasetFigures(good, facts.datasetPath),
  };
}

const ATTAINED_MS = 6_000;

/** From when it was due, where it was: an open loop that falls behind must not flatter the server. */
const fromMs = ({ dueMs, sentMs }: RequestRecord): number => dueMs ?? sentMs;
const latencyOf = (record: RequestRecord): number => record.endMs - fromMs(record);

function timesOf(records: readonly RequestRecord[]): { readonly ttft: number[]; readonly tpot: number[]; readonly itl: number[] } {
  return {
    ttft: records.flatMap((record) => (record.firstMs === null ? [] : [record.firstMs - fromMs(record)])),
    tpot: records.flatMap(({ firstMs, pieces, outputTokens }) => {
      const last = pieces.at(-1)?.atMs;
      return firstMs === null || last === undefined || last <= firstMs || outputTokens < 2 ? [] : [(last - firstMs) / (outputTokens - 1)];
    }),
    itl: records.flatMap(({ pieces }) => pieces.slice(1).map(({ atMs, tokens }, i) => (atMs - pieces[i]!.atMs) / tokens)),
  };
}

function adapterFigures(records: readonly RequestRecord[], names: readonly string[], totalMs: number) {
  const groups = Map.groupBy(records, ({ adapter }) => adapter);
  const order = [...groups.keys()].sort((a, b) => (a ?? -1) - (b ?? -1));
  return order.map((adapter) => {
    const group = groups.get(adapter)!;
    const { ttft, tpot, itl } = timesOf(group);
    const outputTokens = sum(group, (record) => record.outputTokens);
    return {
      name: adapter === null ? null : (names[adapter] ?? String(adapter)),
      num_requests: group.length,
      output_tokens: outputTokens,
      output_throughput_tok_s: totalMs === 0 ? 0 : (1000 * outputTokens) / totalMs,
      request_latency_percentiles_ms: percentilesOf(group.map(latencyOf)),
      ttft_percentiles: percentilesOf(ttft),
      tpot_percentiles: percentilesOf(tpot),
      itl_percentiles: percentilesOf(itl),
    };
  });
}

/**
 * `swaps` counts copies to the device: every adapter dropped, and every place filled in the end. A hit is a request
 * whose adapter needed none; requests that waited for the same copy are hits but the first.
 */
function cacheFigures(records: readonly RequestRecord[], { before, after }: Counted) {
  if (before === null || after === null) return null;
  const requests = records.filter(({ adapter }) => adapter !== null).length;
  const evictions = after.adapterEvictions - before.adapterEvictions;
  const swaps = evictions + after.slotsUsed - before.slotsUsed;
  const loads = after.adapterLoads - before.adapterLoads;
  return {
    swaps, evictions, loads,
    device_hit_rate: requests === 0 ? null : Math.max(0, 1 - swaps / requests),
    host_hit_rate: swaps <= 0 ? null : Math.max(0, 1 - loads / swaps),
    preemptions: after.preemptions - before.preemptions,
  };
}

/** The share of the whole time that reading the weights once per step would take: the floor under steps of few rows. */
function rooflineFigures({ before, after, roofline }: Counted, totalMs: number) {
  if (roofline === null || before === null || after === null || totalMs === 0) return null;
  const steps = after.steps - before.steps;
  const leastMs = (1000 * steps * roofline.weightBytes) / roofline.bytesPerSecond;
  return {
    steps,
    weight_bytes: roofline.weightBytes,
    memory_bytes_per_s: roofline.bytesPerSecond,
    least_ms: leastMs,
    share_of_roofline: leastMs / totalMs,
    compute_share: (after.computeMs - before.computeMs) / totalMs,
  };
}

function datasetFigures(records: readonly RequestRecord[], path: string) {
  const isl = percentilesOf(records.map((record) => record.promptTokens));
  const osl = percentilesOf(records.map((record) => record.outputTokens));
  const seq = percentilesOf(records.map((record) => record.promptTokens + record.outputTokens));
  return {
    isl_stats: isl, osl_stats: osl, seq_len_stats: seq,
    num_requests: records.length, dataset_path: path,
    max_isl: isl?.maximum ?? 0, max_osl: osl?.maximum ?? 0, max_sequence_length: seq?.maximum ?? 0,
    avg_isl: isl?.average ?? 0, avg_osl: osl?.average ?? 0, avg_sequence_length: seq?.average ?? 0,
  };
}

export type AdapterFigures = Report["adapters"][number];
export type { Percentiles };

const sum = <T>(list: readonly T[], of: (one: T) => number): number => list.reduce((total, one) => total + of(one), 0);
