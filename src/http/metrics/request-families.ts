/** Metrics of requests and of the engine, by vLLM's names where it has one. */
import type { HttpDependencies } from "../dependencies.ts";
import type { Exposition, Sample } from "./exposition.ts";

export function writeRequests(out: Exposition, { runtime, metrics, live }: HttpDependencies): void {
  const stats = runtime.stats();
  out.gauge("vllm:num_requests_running", "Sequences that take part in steps.", stats.runningRequests);
  out.gauge("vllm:num_requests_waiting", "Sequences that wait for their first step.", stats.waitingRequests);
  out.counter("vllm:prompt_tokens_total", "Prompt tokens of sequences that have their first token, cached ones among them.", stats.promptTokens);
  out.counter("vllm:generation_tokens_total", "Tokens generated.", stats.generatedTokens);
  out.counter("vllm:request_success_total", "Sequences ended, by reason.", byLabel("finished_reason", stats.finished));
  out.counter("lorikeet_requests_refused_total", "Sequences refused, by error code.", byLabel("code", stats.refused));
  out.gauge("lorikeet_open_streams", "Answers being sent as events.", live.size);
  out.histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", metrics.firstToken);
  out.histogram("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.", metrics.nextToken);
  out.histogram("vllm:e2e_request_latency_seconds", "From the request to its last token.", metrics.wholeRequest);
  out.histogram("vllm:request_queue_time_seconds", "Waiting for a place in a step, the adapter being there.", metrics.queue);
  out.histogram("lorikeet_request_adapter_wait_seconds", "Waiting for the adapter to be on the device.", metrics.adapterWait);
  out.histogram("vllm:request_prefill_time_seconds", "From the first step to the first token.", metrics.prefill);
  out.histogram("vllm:request_decode_time_seconds", "From the first token to the last.", metrics.decode);
  out.histogram("vllm:request_prompt_tokens", "Prompt tokens of a sequence.", metrics.promptTokens);
  out.histogram("vllm:request_generation_tokens", "Tokens generated for a sequence.", metrics.generatedTokens);
}

export function writeEngine(out: Exposition, { runtime }: HttpDependencies): void {
  const stats = runtime.stats();
  const kvUsage = stats.numPages === 0 ? 0 : stats.usedPages / stats.numPages;
  out.gauge("vllm:kv_cache_usage_perc", "Used part of the KV pages, 1 for all.", kvUsage);
  out.gauge("vllm:gpu_cache_usage_perc", "The same under its older name.", kvUsage);
  out.gauge("vllm:cache_config_info", "Size of the KV cache in pages of so many positions.", [
    { labels: { block_size: String(stats.pageTokens), num_gpu_blocks: String(stats.numPages) }, value: 1 },
  ]);
  out.counter("vllm:prefix_cache_queries_total", "Tokens of sequences that looked in the prefix cache when they started.", stats.prefixQueries);
  out.counter("vllm:prefix_cache_hits_total", "Of those, tokens that were found and not computed again.", stats.prefixHits);
  out.counter("vllm:num_preemptions_total", "Sequences that gave their pages back.", stats.preemptions);
  out.gauge("lorikeet_kv_pages", "KV pages.", stats.numPages);
  out.gauge("lorikeet_kv_pages_used", "KV pages in use.", stats.usedPages);
  out.gauge("lorikeet_kv_pages_idle", "KV pages in nobody's use that the prefix cache keeps until others need them.", stats.idlePages);
  out.counter("lorikeet_steps_total", "Steps run.", stats.steps);
  out.counter("lorikeet_step_compute_seconds_total", "Time of steps in native code.", stats.stepComputeMs / 1000);
  out.counter("lorikeet_step_host_seconds_total", "Time of steps outside native code.", stats.stepHostMs / 1000);
}

export const byLabel = (label: string, counts: Readonly<Record<string, number>>): Sample[] =>
  Object.entries(counts).map(([key, value]) => ({ labels: { [label]: key }, value }));
