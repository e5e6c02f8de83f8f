/** Keys that TensorRT-LLM knows and Lorikeet does not, each with the reason: for people who bring a file of theirs. */

const GPU = "this build has no GPU engine";
const MULTI = "one process serves one whole model";
const OWN = "the engine decides this itself";
const LATER = "it is not served yet";

export const TRTLLM_ONLY_KEYS: Readonly<Record<string, string>> = {
  tensor_parallel_size: MULTI,
  pipeline_parallel_size: MULTI,
  context_parallel_size: MULTI,
  gpus_per_node: MULTI,
  moe_tensor_parallel_size: MULTI,
  moe_expert_parallel_size: MULTI,
  moe_cluster_parallel_size: MULTI,
  enable_attention_dp: MULTI,
  cuda_graph_config: GPU,
  attn_backend: GPU,
  sampler_type: OWN,
  disable_overlap_scheduler: OWN,
  scheduler_config: OWN,
  enable_chunked_prefill: "prompts are always computed in chunks",
  enable_lora: "adapters are always served; name them in lora_config.lora_dir",
  max_beam_width: "beam search is not served",
  max_input_len: "set max_seq_len instead",
  load_format: "weights are always read from safetensors",
  trust_remote_code: "no code is ever run from a model's directory",
  tokenizer: "the tokenizer is read from the model's directory",
  tokenizer_mode: "the tokenizer is read from the model's directory",
  skip_tokenizer_init: "the tokenizer is read from the model's directory",
  revision: "only local directories are served",
  tokenizer_revision: "only local directories are served",
  speculative_config: LATER,
  guided_decoding_backend: LATER,
  quant_config: "set dtype: int8 for weights in 8 bits",
  gather_generation_logits: LATER,
  num_postprocess_workers: OWN,
  reasoning_parser: LATER,
  return_perf_metrics: "GET /metrics is always there",
  perf_metrics_max_requests: "GET /metrics is always there",
  enable_iter_perf_stats: "GET /metrics is always there",
  enable_iter_req_stats: "GET /metrics is always there",
  print_iter_log: LATER,
  batch_wait_timeout_ms: OWN,
  stream_interval: "every token is sent as soon as it is there",
  max_stats_len: "GET /metrics is always there",
  generation_config: "end tokens are read from the model's generation_config.json",
  "lora_config.overlap_lora_and_base": GPU,
  "lora_config.cuda_graph_specialize_lora": GPU,
  "peft_cache_config.num_put_workers": OWN,
  "peft_cache_config.num_ensure_workers": OWN,
  "peft_cache_config.num_copy_streams": GPU,
  "peft_cache_config.max_pages_per_block_host": OWN,
  "peft_cache_config.max_pages_per_block_device": OWN,
  "peft_cache_config.lora_prefetch_dir": "adapters are read on first use",
  "peft_cache_config.optimal_adapter_size": "adapters are stored whole, not in pages of one rank",
  "kv_cache_config.free_gpu_memory_fraction": `${GPU}; set kv_cache_config.max_tokens instead`,
  "kv_cache_config.enable_block_reuse": LATER,
  "kv_cache_config.enable_partial_reuse": LATER,
  "kv_cache_config.copy_on_partial_reuse": LATER,
  "kv_cache_config.max_attention_window": "the window is read from the model's config.json",
  "kv_cache_config.sink_token_length": LATER,
  "kv_cache_config.host_cache_size": LATER,
  "kv_cache_config.onboard_blocks": LATER,
  "kv_cache_config.secondary_offload_min_priority": LATER,
  "kv_cache_config.event_buffer_max_size": LATER,
  "kv_cache_config.dtype": "KV pages are float32",
  "kv_cache_config.tokens_per_block": OWN,
  "kv_cache_config.max_gpu_total_bytes": GPU,
};

/** What to say of a key that only TensorRT-LLM has, as the end of a sentence that starts with it. */
export function notServed(key: string): string | undefined {
  const reason = Object.hasOwn(TRTLLM_ONLY_KEYS, key) ? TRTLLM_ONLY_KEYS[key] : undefined;
  return reason === undefined ? undefined : `is a key of TensorRT-LLM that is known, not supported: ${reason}`;
}
