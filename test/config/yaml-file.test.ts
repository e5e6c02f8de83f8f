import { describe, expect, test } from "bun:test";
import { ConfigError } from "../../src/core/errors.ts";
import { readYaml } from "../../src/config/yaml-file.ts";
import { resolveConfig } from "../../src/config/resolve.ts";
import { TRTLLM_ONLY_KEYS } from "../../src/config/trtllm-keys.ts";
import { SETTINGS } from "../../src/config/settings.ts";
import { yamlName } from "../../src/config/resolve.ts";
import { thrownBy } from "../helpers/thrown.ts";

const configOf = (yaml: string) => resolveConfig(readYaml(yaml, "serve.yaml")).config;

describe("a configuration file", () => {
  test("takes the guide's keys", () => {
    const config = configOf(`
model: models/demo
served_model_name: demo
host: 127.0.0.1
port: 9000
backend: wasm
dtype: int8
max_batch_size: 8
max_num_tokens: 256
max_seq_len: 512
lora_config:
  lora_dir: [models/demo/adapters, sql=adapters/sql]
  lora_target_modules: [attn_q, attn_k, attn_v]
  max_lora_rank: 8
  max_loras: 2
  max_cpu_loras: 4
  lora_ckpt_source: hf
  trtllm_modules_to_hf_modules: {attn_q: q_proj, mlp_h_to_4h: [gate_proj, w1]}
  swap_gate_up_proj_lora_b_weight: true
peft_cache_config:
  host_cache_size: 1048576
  device_cache_percent: 0.5
  num_host_module_layer: 0
kv_cache_config:
  max_tokens: 4096
`);
    expect(config).toMatchObject({
      model: "models/demo",
      servedModelName: "demo",
      port: 9000,
      dtype: "int8",
      maxSeqLen: 512,
      loraConfig: {
        loraDir: ["models/demo/adapters", "sql=adapters/sql"],
        loraTargetModules: ["attn_q", "attn_k", "attn_v"],
        maxLoraRank: 8,
        maxLoras: 2,
        trtllmModulesToHfModules: { attn_q: ["q_proj"], mlp_h_to_4h: ["gate_proj", "w1"] },
      },
      peftCacheConfig: { hostCacheSize: 1048576, deviceCachePercent: 0.5, numHostModuleLayer: 0 },
      kvCacheConfig: { maxTokens: 4096 },
    });
  });

  test("lists clients with their keys, shares and quotas", () => {
    const { clients } = configOf(`
clients:
  - {name: team-a, key: sk-a, weight: 3, max_requests: 8, requests_per_minute: 600, tokens_per_minute: 100000}
  - name: team-b
    key: sk-b
`);
    expect(clients).toEqual([
      { name: "team-a", key: "sk-a", weight: 3, maxRequests: 8, requestsPerMinute: 600, tokensPerMinute: 100_000 },
      { name: "team-b", key: "sk-b", weight: 1, maxRequests: null, requestsPerMinute: null, tokensPerMinute: null },
    ]);
  });

  test("never shows a client's key in a message", () => {
    const thrown = thrownBy(() => readYaml("clients: [{name: a, key: 12345678}]\n", "serve.yaml"));
    expect((thrown as ConfigError).message).toContain("clients entry 1 must have a key of one word");
    expect((thrown as ConfigError).message).not.toContain("1234");
  });

  test("may be empty, and leaves every default", () => {
    for (const yaml of ["", "# nothing\n", "---\n", "lora_config:\n"]) {
      expect(configOf(yaml)).toMatchObject({ port: 8000, host: "127.0.0.1", loraConfig: { maxLoraRank: 64, loraDir: [] } });
    }
  });

  test("may repeat itself with anchors", () => {
    expect(configOf("max_batch_size: &n 7\nmax_queue: *n\n")).toMatchObject({ maxBatchSize: 7, maxQueue: 7 });
  });

  test("means the default by null where there is none of its own", () => {
    expect(configOf("max_seq_len: null\nlora_config: {max_loras: ~}\n")).toMatchObject({ maxSeqLen: null, loraConfig: { maxLoras: null } });
  });

  test.each([
    ["an unknown key", "port: 1\nmax_batchsize: 3\n", "serve.yaml:2:1: max_batchsize is not a setting (did you mean max_batch_size?)", "max_batchsize"],
    ["an unknown key in a section", "lora_config:\n  max_lora_rnk: 8\n", "serve.yaml:2:3: lora_config.max_lora_rnk is not a setting (did you mean lora_config.max_lora_rank?)", "lora_config.max_lora_rnk"],
    ["a key in another section", "lora_config:\n  host_cache_size: 8\n", "(did you mean peft_cache_config.host_cache_size?)", "lora_config.host_cache_size"],
    ["a key that nobody can have meant", "zzzzzzzzzz: 1\n", "serve.yaml:1:1: zzzzzzzzzz is not a setting", "zzzzzzzzzz"],
    ["a section that is unknown", "lora_conf:\n  max_loras: 2\n", "serve.yaml:1:1: lora_conf is not a setting (did you mean lora_config?)", "lora_conf"],
    ["camelCase", "maxBatchSize: 3\n", "(did you mean max_batch_size?)", "maxBatchSize"],
    ["TensorRT-LLM's own", "tensor_parallel_size: 2\n", "serve.yaml:1:1: tensor_parallel_size is a key of TensorRT-LLM that is known, not supported: one process serves one whole model", "tensor_parallel_size"],
    ["TensorRT-LLM's own in a section", "kv_cache_config:\n  enable_partial_reuse: true\n", "serve.yaml:2:3: kv_cache_config.enable_partial_reuse is a key of TensorRT-LLM that is known, not supported", "kv_cache_config.enable_partial_reuse"],
    ["a GPU's memory", "kv_cache_config:\n  free_gpu_memory_fraction: 0.9\n", "known, not supported: set kv_cache_config.max_tokens instead", "kv_cache_config.free_gpu_memory_fraction"],
    ["a directory to prefetch from", "peft_cache_config: {lora_prefetch_dir: x}\n", "name adapters in lora_config.lora_dir, which are read at the start", "peft_cache_config.lora_prefetch_dir"],
    ["a name of every object", "constructor: 1\n", "serve.yaml:1:1: constructor is not a setting", "constructor"],
    ["text for a number", "port: eighty\n", 'serve.yaml:1:7: port must be a whole number from 0 to 65535, got "eighty"', "port"],
    ["a quoted number", 'port: "8000"\n', 'serve.yaml:1:7: port must be a whole number from 0 to 65535, got "8000"', "port"],
    ["a number beyond its range", "port: 70000\n", "serve.yaml:1:7: port must be a whole number from 0 to 65535, got 70000", "port"],
    ["a fraction", "max_queue: 1.5\n", "max_queue must be a whole number from 1 to 1000000, got 1.5", "max_queue"],
    ["a number for text", "host: 7\n", "host must be a non-empty string, got 7", "host"],
    ["text for true or false", "allow_no_key: maybe\n", 'allow_no_key must be true or false, got "maybe"', "allow_no_key"],
    ["an unknown choice", "dtype: fp16\n", 'dtype must be bfloat16, float32, int8 or auto, got "fp16"', "dtype"],
    ["a percentage above 1", "peft_cache_config:\n  device_cache_percent: 50\n", "serve.yaml:2:25: peft_cache_config.device_cache_percent must be a number from 0 to 1, got 50", "peft_cache_config.device_cache_percent"],
    ["numbers for names", "lora_config: {lora_dir: [1]}\n", "lora_config.lora_dir must be a string or a list of non-empty strings", "lora_config.lora_dir"],
    ["a map for a list", "lora_config: {lora_dir: {a: b}}\n", "lora_config.lora_dir must be a string or a list", "lora_config.lora_dir"],
    ["a list for a map", "lora_config: [1]\n", "serve.yaml:1:14: lora_config must be a map of settings", undefined],
    ["null where there is a default", "port: null\n", "port must be a whole number from 0 to 65535, got null", "port"],
    ["a list at the top", "- port\n", "serve.yaml:1:1: the file must be a map of settings", undefined],
    ["a key twice", "port: 1\nport: 2\n", "serve.yaml:2:1: Map keys must be unique", undefined],
    ["a tab for indentation", "lora_config:\n\tmax_loras: 1\n", "serve.yaml:2:1: Tabs are not allowed as indentation", undefined],
    ["an open bracket", "lora_config: {max_loras: 1\n", "serve.yaml:", undefined],
    ["deep nesting", "lora_config: {trtllm_modules_to_hf_modules: {a: [[b]]}}\n", "must not nest this deep", undefined],
    ["a client that is none", "clients: [sk-a]\n", "serve.yaml:1:10: clients entry 1 must be a map", "clients"],
    ["clients that are no list", "clients: {name: a}\n", "clients must be a list of maps with name and key", "clients"],
    ["a client without a key", "clients: [{name: a}]\n", "clients entry 1 must have a key of one word", "clients"],
    ["a client's key of two words", "clients: [{name: a, key: s k}]\n", "clients entry 1 must have a key of one word", "clients"],
    ["a client without a name", "clients: [{key: sk-a}]\n", "clients entry 1 must have a name of 1 to 64 letters", "clients"],
    ["a client's name that is taken", "clients: [{key: sk-a, name: admin}]\n", "clients entry 1 cannot be named admin", "clients"],
    ["a client's weight of nothing", "clients: [{key: sk-a, name: a, weight: 0}]\n", "clients entry 1 weight must be a number from 0.001 to 1000000, got 0", "clients"],
    ["a client's fraction of a request", "clients: [{key: sk-a, name: a, max_requests: 0.5}]\n", "clients entry 1 max_requests must be a whole number from 1", "clients"],
    ["an unknown quota", "clients: [{key: sk-a, name: a, token_per_minute: 5}]\n", "clients entry 1 has token_per_minute, which is not a setting of a client (did you mean tokens_per_minute?)", "clients"],
    ["a client twice", "clients: [{key: sk-a, name: a}, {key: sk-b, name: a}]\n", "clients entry 2 has the name of an earlier entry", "clients"],
    ["a client's key twice", "clients: [{key: sk-a, name: a}, {key: sk-a, name: b}]\n", "clients entry 2 has the key of an earlier entry", "clients"],
    ["an alias that is none", "port: *p\n", "serve.yaml:1:7: Unresolved alias", undefined],
  ] as const)("is refused with %s", (_, yaml, message, field) => {
    const thrown = thrownBy(() => readYaml(yaml, "serve.yaml"));
    expect(thrown).toBeInstanceOf(ConfigError);
    expect((thrown as ConfigError).message).toContain(message);
    expect(thrown).toMatchObject({ errorCode: "config_invalid", field });
  });

  test("cannot be blown up by aliases", () => {
    const layers = Array.from({ length: 20 }, (_, i) => `l${i}: &l${i} [${`*l${i - 1},`.repeat(i === 0 ? 0 : 9)}]`);
    expect(thrownBy(() => readYaml(`lora_config: {lora_dir: x}\n${layers.join("\n")}\n`, "serve.yaml"))).toBeInstanceOf(ConfigError);
  });

  test("never has a key both served and known as not served", () => {
    const served = new Set([...SETTINGS.keys()].map(yamlName));
    expect(Object.keys(TRTLLM_ONLY_KEYS).filter((key) => served.has(key))).toEqual([]);
  });
});
