/**
 * Metrics of adapters: which are in use, which are resident, how they move between tiers, and how fairly they
 * are served.
 *
 * Routers choose a server by two of vLLM's: `lora_requests_info` tells which adapters have requests now, and
 * `lora_adapter_loaded` which are in memory, whether anybody asks for them or not.
 *
 * @source vLLM `v1/metrics/loggers.py`; drafts vllm-project/vllm#54830 and llm-d/llm-d-router#2792
 */
import type { AdapterListing } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import type { Exposition, Sample } from "./exposition.ts";
import { byLabel } from "./request-families.ts";

/** Most adapters with labels of their own in a family; the rest are counted together, or left out of a list. */
export const MAX_LABELLED_ADAPTERS = 100;
/** Residency is what routers decide by, so more of it is told. */
export const MAX_RESIDENT_ADAPTERS = 1_000;
/** A name that no adapter can have. */
const OTHERS = "(others)";

export function writeAdapters(out: Exposition, deps: HttpDependencies): void {
  const adapters = deps.runtime.adapters().filter(({ state }) => state !== "draining");
  writeRequestInfo(out, deps, adapters);
  writeResidency(out, deps, adapters);
  writeTiers(out, deps, adapters);
  writeUse(out, deps, adapters);
}

/** vLLM gives this one no labels but these three. */
function writeRequestInfo(out: Exposition, { runtime, clock }: HttpDependencies, adapters: readonly AdapterListing[]): void {
  const busiest = (count: (adapter: AdapterListing) => number): string =>
    adapters
      .filter((adapter) => count(adapter) > 0)
      .toSorted((a, b) => count(b) - count(a))
      .slice(0, MAX_RESIDENT_ADAPTERS)
      .map(({ name }) => name)
      .join(",");
  const labels = {
    max_lora: String(runtime.stats().numSlots),
    running_lora_adapters: busiest(({ numRunning }) => numRunning),
    waiting_lora_adapters: busiest(({ numWaiting }) => numWaiting),
  };
  out.bareGauge("vllm:lora_requests_info", "Adapters with requests now; the value is the time of this scrape.", [
    { labels, value: clock.unixSeconds() },
  ]);
}

function writeResidency(out: Exposition, { runtime, adapterMetrics }: HttpDependencies, adapters: readonly AdapterListing[]): void {
  const stats = runtime.stats();
  const inTier = (tier: AdapterListing["state"]) => adapters.filter(({ state }) => state === tier);
  const resident = [...inTier("device"), ...inTier("host")].slice(0, MAX_RESIDENT_ADAPTERS);
  const series = resident.map(({ name, state, rank, isPinned }): Sample => ({
    labels: { adapter_name: name, level: state === "device" ? "gpu" : "cpu", pinned: String(isPinned), ...(rank === null ? {} : { rank: String(rank) }) },
    value: 1,
  }));
  out.gauge("vllm:lora_adapter_loaded", "1 for each adapter in memory: on the device (gpu) or staged on the host (cpu).", series);
  out.gauge("vllm:num_gpu_loaded_lora_adapters", "Adapters on the device.", stats.usedSlots);
  out.gauge("vllm:num_cpu_loaded_lora_adapters", "Adapters staged on the host, those on the device among them.", stats.hostCacheAdapters);
  out.gauge("vllm:max_gpu_lora_adapters", "Places for adapters on the device.", stats.numSlots);
  out.histogram("vllm:lora_adapter_load_seconds", "From files to the host (load), from the host to the device (activate).", [
    { labels: { transition: "load" }, histogram: adapterMetrics.load },
    { labels: { transition: "activate" }, histogram: adapterMetrics.activate },
  ]);
}

function writeTiers(out: Exposition, { runtime, adapterMetrics }: HttpDependencies, adapters: readonly AdapterListing[]): void {
  const stats = runtime.stats();
  const states = Object.entries(Object.groupBy(adapters, ({ state }) => state));
  out.gauge("lorikeet_adapters", "Adapters, by state.", states.map(([state, list]) => ({ labels: { state }, value: list.length })));
  out.gauge("lorikeet_adapter_slots", "Places for adapters on the device.", stats.numSlots);
  out.gauge("lorikeet_adapter_slots_used", "Places in use.", stats.usedSlots);
  const tiers = (device: number, host: number): Sample[] => byLabel("tier", { device, host });
  out.gauge("lorikeet_adapter_tier_bytes", "Bytes of adapters in a tier.", tiers(stats.adapterBytes, stats.hostCacheBytes));
  out.gauge("lorikeet_adapter_tier_max_bytes", "Most bytes of adapters in a tier.", tiers(stats.adapterMaxBytes, stats.hostCacheMaxBytes));
  out.counter("lorikeet_adapter_loads_total", "Adapters read.", stats.adapterLoads);
  out.counter("lorikeet_adapter_load_failures_total", "Adapters that could not be read, by error code.", byLabel("code", adapterMetrics.failures));
  out.counter("lorikeet_adapter_evictions_total", "Adapters dropped from a tier.", byLabel("tier", adapterMetrics.evictions));
  out.histogram("lorikeet_adapter_swap_seconds", "From the wish for a place on the device to having it.", adapterMetrics.swap);
}

function writeUse(out: Exposition, { runtime }: HttpDependencies, adapters: readonly AdapterListing[]): void {
  const { numWaitingGroups, longestWaitMs, servedGapRows, tenantGapRows } = runtime.stats().contention;
  out.gauge("lorikeet_waiting_adapters", "Adapters, the base model among them, that have requests waiting.", numWaitingGroups);
  out.gauge("lorikeet_longest_wait_seconds", "Age of the request that has waited longest.", longestWaitMs / 1000);
  out.gauge("lorikeet_fairness_gap_rows", "Most rows that one of a key's waiting adapters has been served ahead of another.", servedGapRows);
  out.gauge("lorikeet_fairness_key_gap_rows", "Most rows, divided by weights, that one waiting API key has been served ahead of another.", tenantGapRows);

  const byUse = adapters.toSorted((a, b) => b.numRequests - a.numRequests);
  const perAdapter = (count: (adapter: AdapterListing) => number): Sample[] => {
    const samples = byUse
      .slice(0, MAX_LABELLED_ADAPTERS)
      .map((adapter) => ({ labels: { adapter: adapter.name }, value: count(adapter) }));
    const others = byUse.slice(MAX_LABELLED_ADAPTERS);
    if (others.length === 0) return samples;
    return [...samples, { labels: { adapter: OTHERS }, value: others.reduce((sum, each) => sum + count(each), 0) }];
  };
  out.counter("lorikeet_adapter_requests_total", "Sequences, by adapter.", perAdapter((each) => each.numRequests));
  out.counter("lorikeet_adapter_prompt_tokens_total", "Prompt tokens, by adapter.", perAdapter((each) => each.promptTokens));
  out.counter("lorikeet_adapter_generation_tokens_total", "Tokens generated, by adapter.", perAdapter((each) => each.generatedTokens));
}
