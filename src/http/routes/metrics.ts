/** Prometheus metrics, by vLLM's names where it has one, so that LoRA-aware routers work unchanged. */
import { Elysia } from "elysia";
import type { AdapterListing } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { Exposition, EXPOSITION_TYPE, type Sample } from "../metrics/exposition.ts";

/** Most adapters with labels of their own; the rest are counted together. */
const MAX_LABELLED_ADAPTERS = 100;
/** A name that no adapter can have. */
const OTHERS = "(others)";

export const metricsRoutes = (deps: HttpDependencies) =>
  new Elysia().get(
    "/metrics",
    () => new Response(metricsText(deps), { headers: { "content-type": EXPOSITION_TYPE } }),
  );

function metricsText(deps: HttpDependencies): string {
  const out = new Exposition({ model_name: deps.baseNames[0] });
  writeRequests(out, deps);
  writeEngine(out, deps);
  writeAdapters(out, deps);
  return out.text();
}

function writeRequests(out: Exposition, { runtime, metrics, live }: HttpDependencies): void {
  const stats = runtime.stats();
  out.gauge("vllm:num_requests_running", "Sequences that take part in steps.", stats.runningRequests);
  out.gauge("vllm:num_requests_waiting", "Sequences that wait for their first step.", stats.waitingRequests);
  out.counter("vllm:prompt_tokens_total", "Prompt tokens computed.", stats.promptTokens);
  out.counter("vllm:generation_tokens_total", "Tokens generated.", stats.generatedTokens);
  out.counter("vllm:request_success_total", "Sequences ended, by reason.", byLabel("finished_reason", stats.finished));
  out.counter("lorikeet_requests_refused_total", "Sequences refused, by error code.", byLabel("code", stats.refused));
  out.gauge("lorikeet_open_streams", "Answers being sent as events.", live.size);
  out.histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", metrics.firstToken);
  out.histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.", metrics.nextToken);
  out.histogram("vllm:e2e_request_latency_seconds", "From the request to its last token.", metrics.wholeRequest);
}

function writeEngine(out: Exposition, { runtime }: HttpDependencies): void {
  const stats = runtime.stats();
  const kvUsage = stats.numPages === 0 ? 0 : stats.usedPages / stats.numPages;
  out.gauge("vllm:kv_cache_usage_perc", "Used part of the KV pages, 1 for all.", kvUsage);
  out.gauge("vllm:gpu_cache_usage_perc", "The same under its older name.", kvUsage);
  out.counter("vllm:num_preemptions_total", "Sequences that gave their pages back.", stats.preemptions);
  out.gauge("lorikeet_kv_pages", "KV pages.", stats.numPages);
  out.gauge("lorikeet_kv_pages_used", "KV pages in use.", stats.usedPages);
  out.counter("lorikeet_steps_total", "Steps run.", stats.steps);
  out.counter("lorikeet_step_compute_seconds_total", "Time of steps in native code.", stats.stepComputeMs / 1000);
  out.counter("lorikeet_step_host_seconds_total", "Time of steps outside native code.", stats.stepHostMs / 1000);
}

function writeAdapters(out: Exposition, { runtime, metrics, clock }: HttpDependencies): void {
  const stats = runtime.stats();
  const adapters = runtime.adapters().filter(({ state }) => state !== "draining");
  out.gauge("vllm:lora_requests_info", "Adapters with sequences now; the value is the time of this scrape.", [
    {
      labels: {
        max_lora: String(stats.numSlots),
        running_lora_adapters: [...metrics.running.keys()].join(","),
        waiting_lora_adapters: [...metrics.waiting.keys()].join(","),
      },
      value: clock.unixSeconds(),
    },
  ]);
  const states = Object.entries(Object.groupBy(adapters, ({ state }) => state));
  out.gauge("lorikeet_adapters", "Adapters, by state.", states.map(([state, list]) => ({ labels: { state }, value: list.length })));
  out.gauge("lorikeet_adapter_slots", "Places for adapters on the device.", stats.numSlots);
  out.gauge("lorikeet_adapter_slots_used", "Places in use.", stats.usedSlots);
  out.gauge("lorikeet_host_cache_bytes", "Bytes of adapters in host memory.", stats.hostCacheBytes);
  out.gauge("lorikeet_host_cache_max_bytes", "Most bytes of adapters in host memory.", stats.hostCacheMaxBytes);
  out.counter("lorikeet_adapter_loads_total", "Adapters read.", stats.adapterLoads);
  out.counter("lorikeet_adapter_evictions_total", "Adapters dropped from the device.", stats.adapterEvictions);

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

const byLabel = (label: string, counts: Readonly<Record<string, number>>): Sample[] =>
  Object.entries(counts).map(([key, value]) => ({ labels: { [label]: key }, value }));
