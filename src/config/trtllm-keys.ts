/** What TensorRT-LLM can be told and Lorikeet cannot, each with the reason: for people who bring a file or a command of theirs. */

/** A key or an option that is known and has no setting here. */
export interface Unserved {
  readonly reason: string;
  /** Values that ask for what is so anyway: they are taken. */
  readonly harmless?: readonly unknown[];
}

const MULTI = "one process serves one whole model";
const OWN = "the engine decides this itself";
const LATER = "it is not served yet";
const LOCAL = "it is read from the model's directory";
const METRICS = "GET /metrics is always there";

const one = (reason: string): Unserved => ({ reason, harmless: [1] });
const off = (reason: string): Unserved => ({ reason, harmless: [false] });
const on = (reason: string): Unserved => ({ reason, harmless: [true] });
const because = (reason: string): Unserved => ({ reason });

/** Keys of YAML files, and of a program's options in camelCase. */
export const TRTLLM_ONLY_KEYS: Readonly<Record<string, Unserved>> = {
  tensor_parallel_size: one(MULTI),
  pipeline_parallel_size: one(MULTI),
  context_parallel_size: one(MULTI),
  gpus_per_node: one(MULTI),
  moe_tensor_parallel_size: one(MULTI),
  moe_expert_parallel_size: one(MULTI),
  moe_cluster_parallel_size: one(MULTI),
  enable_attention_dp: off(MULTI),
  cuda_graph_config: because("the CUDA engine makes its graphs itself"),
  attn_backend: because(OWN),
  sampler_type: { reason: OWN, harmless: ["auto"] },
  scheduler_config: because(OWN),
  enable_chunked_prefill: on("prompts are always computed in chunks"),
  enable_lora: on("adapters are always served; name them in lora_config.lora_dir"),
  max_beam_width: one("beam search is not served"),
  max_input_len: because("set max_seq_len instead"),
  load_format: { reason: "weights are always read from safetensors", harmless: ["auto"] },
  trust_remote_code: off("no code is ever run from a model's directory"),
  tokenizer: because(LOCAL),
  tokenizer_mode: { reason: LOCAL, harmless: ["auto"] },
  skip_tokenizer_init: off(LOCAL),
  revision: because("write it behind the model's name: OWNER/NAME@REVISION"),
  tokenizer_revision: because("the tokenizer is the model's own"),
  speculative_config: because(LATER),
  guided_decoding_backend: { reason: "XGrammar holds outputs to grammars", harmless: ["xgrammar"] },
  quant_config: because("set dtype: int8 for weights in 8 bits"),
  gather_generation_logits: off(LATER),
  num_postprocess_workers: { reason: OWN, harmless: [0] },
  reasoning_parser: because(LATER),
  return_perf_metrics: because(METRICS),
  perf_metrics_max_requests: because(METRICS),
  enable_iter_perf_stats: because(METRICS),
  enable_iter_req_stats: because(METRICS),
  print_iter_log: off(LATER),
  batch_wait_timeout_ms: { reason: OWN, harmless: [0] },
  stream_interval: one("every token is sent as soon as it is there"),
  max_stats_len: because(METRICS),
  generation_config: because("end tokens are read from the model's generation_config.json"),
  "lora_config.overlap_lora_and_base": because("the CUDA engine decides this itself"),
  "lora_config.cuda_graph_specialize_lora": because("the CUDA engine always has graphs with and without adapters"),
  "peft_cache_config.lora_prefetch_dir": because("name adapters in lora_config.lora_dir, which are read at the start, or with lora_config.lora_fetch start fetched then"),
  "kv_cache_config.free_gpu_memory_fraction": because("set kv_cache_config.max_tokens instead"),
  "kv_cache_config.enable_partial_reuse": off(LATER),
  "kv_cache_config.copy_on_partial_reuse": off(LATER),
  "kv_cache_config.max_attention_window": because("the window is read from the model's config.json"),
  "kv_cache_config.sink_token_length": { reason: LATER, harmless: [0] },
  "kv_cache_config.host_cache_size": { reason: LATER, harmless: [0] },
  "kv_cache_config.onboard_blocks": because(LATER),
  "kv_cache_config.secondary_offload_min_priority": because(LATER),
  "kv_cache_config.event_buffer_max_size": { reason: LATER, harmless: [0] },
  "kv_cache_config.dtype": { reason: "the backend decides this itself: float32 on WASM, bfloat16 on CUDA", harmless: ["auto"] },
  "kv_cache_config.tokens_per_block": because(OWN),
  "kv_cache_config.max_gpu_total_bytes": { reason: "set kv_cache_config.max_tokens instead", harmless: [0] },
};

/** Options of `trtllm-serve` that are no settings here, in snake_case. */
export const TRTLLM_ONLY_OPTIONS: Readonly<Record<string, Unserved>> = {
  tokenizer: because(LOCAL),
  custom_tokenizer: because(LOCAL),
  custom_module_dirs: because("no code is ever run from outside the program"),
  max_beam_width: TRTLLM_ONLY_KEYS["max_beam_width"]!,
  tensor_parallel_size: one(MULTI),
  tp_size: one(MULTI),
  pipeline_parallel_size: one(MULTI),
  pp_size: one(MULTI),
  cp_size: one(MULTI),
  ep_size: one(MULTI),
  cluster_size: one(MULTI),
  gpus_per_node: one(MULTI),
  free_gpu_memory_fraction: TRTLLM_ONLY_KEYS["kv_cache_config.free_gpu_memory_fraction"]!,
  kv_cache_free_gpu_memory_fraction: TRTLLM_ONLY_KEYS["kv_cache_config.free_gpu_memory_fraction"]!,
  num_postprocess_workers: TRTLLM_ONLY_KEYS["num_postprocess_workers"]!,
  trust_remote_code: because("no code is ever run from a model's directory"),
  revision: TRTLLM_ONLY_KEYS["revision"]!,
  reasoning_parser: because(LATER),
  tool_parser: because("the form of tool calls is told from the chat template"),
  metadata_server_config_file: because(MULTI),
  server_role: because(MULTI),
  fail_fast_on_attention_window_too_large: because("a context beyond the memory is always refused at start"),
  otlp_traces_endpoint: because(LATER),
  enable_chunked_prefill: on("prompts are always computed in chunks"),
  media_io_kwargs: because("the models served here read text only"),
  chat_template: because(LOCAL),
  generation_config: TRTLLM_ONLY_KEYS["generation_config"]!,
};

/** Other names of `--config` and of settings. */
export const TRTLLM_ALIASES: Readonly<Record<string, string>> = { extra_llm_api_options: "config" };

/** Flags of vLLM's that stand alone and say what a setting with a value does. */
export const VLLM_SWITCHES: Readonly<Record<string, readonly [flag: string, value: string]>> = {
  enable_prefix_caching: ["--enable-block-reuse", "true"],
  no_enable_prefix_caching: ["--enable-block-reuse", "false"],
};

/** Options that stand alone, without a value. */
const BARE_OPTIONS = ["trust_remote_code", "fail_fast_on_attention_window_too_large", "enable_chunked_prefill"];
export const isBareOption = (name: string): boolean => BARE_OPTIONS.includes(name);

export const unservedKey = (key: string): Unserved | undefined => (Object.hasOwn(TRTLLM_ONLY_KEYS, key) ? TRTLLM_ONLY_KEYS[key] : undefined);
export const unservedOption = (name: string): Unserved | undefined => (Object.hasOwn(TRTLLM_ONLY_OPTIONS, name) ? TRTLLM_ONLY_OPTIONS[name] : undefined);

/** Whether a value may be taken because it changes nothing; `null` means that nothing was wanted. */
export const isHarmless = ({ harmless = [] }: Unserved, value: unknown): boolean => value === null || harmless.includes(value);

/** What to say of one that is not, as the end of a sentence that starts with its name. */
export const notServed = ({ reason }: Unserved, what: "a key" | "an option"): string => `is ${what} of TensorRT-LLM that is known, not supported: ${reason}`;
