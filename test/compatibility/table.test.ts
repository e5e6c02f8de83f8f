import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { compatibility, COMPATIBILITY_PATH } from "../../scripts/generate-compatibility.ts";
import { parseCommandLine } from "../../src/config/cli.ts";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { SETTINGS, snakeCase } from "../../src/config/settings.ts";
import { TRTLLM_ONLY_KEYS, TRTLLM_ONLY_OPTIONS } from "../../src/config/trtllm-keys.ts";
import { readYaml } from "../../src/config/yaml-file.ts";

test("docs/compatibility.md is what the settings say; bun run generate writes it", () => {
  expect(readFileSync(COMPATIBILITY_PATH, "utf8")).toBe(compatibility());
});

const files: Readonly<Record<string, string>> = { "c.yaml": "max-batch-size: 3\nlora-config:\n  max-lora-rank: 8\n  lora_dir: [a, b]\n" };
const serve = (...argv: string[]) => {
  const command = parseCommandLine(["serve", "m", ...argv], { version: "1", demo: () => "d", env: {}, readFile: (path) => files[path]! });
  if (command.kind !== "serve") throw new Error("not serve");
  return command.resolved.config;
};

/** Every option of trtllm-serve, as its documentation lists them. */
const OPTIONS = `tokenizer host port backend custom_module_dirs log_level max_beam_width max_batch_size max_num_tokens max_seq_len tensor_parallel_size tp_size
  pipeline_parallel_size pp_size cp_size ep_size cluster_size gpus_per_node free_gpu_memory_fraction kv_cache_free_gpu_memory_fraction num_postprocess_workers
  trust_remote_code revision config extra_llm_api_options reasoning_parser tool_parser metadata_server_config_file server_role
  fail_fast_on_attention_window_too_large otlp_traces_endpoint enable_chunked_prefill media_io_kwargs chat_template generation_config served_model_name
  custom_tokenizer`.split(/\s+/);

describe("options of trtllm-serve", () => {
  test("are all in the table", () => {
    for (const name of OPTIONS) expect(compatibility()).toContain(`| \`--${name}\` |`);
  });

  test.each([
    [["--max_batch_size", "7", "--served-model-name=x"], { maxBatchSize: 7, servedModelName: "x" }],
    [["--max-batch-size=7", "--log_level", "error"], { maxBatchSize: 7, logLevel: "error" }],
    [["--extra_llm_api_options", "c.yaml"], { maxBatchSize: 3, loraConfig: { maxLoraRank: 8, loraDir: ["a", "b"] } }],
    [["--config=c.yaml", "--lora_dir", "x_y"], { maxBatchSize: 3 }],
    [["--tp_size", "1", "--pp-size=1", "--enable_chunked_prefill", "--port", "9"], { port: 9 }],
  ])("%j are taken in either spelling", (argv, expected) => {
    expect(serve(...argv)).toMatchObject(expected);
  });

  test.each([
    [["--tp_size", "2"], "--tp_size is an option of TensorRT-LLM that is known, not supported: one process serves one whole model"],
    [["--tp-size=2"], "--tp-size=2 is an option of TensorRT-LLM"],
    [["--trust_remote_code"], "no code is ever run"],
    [["--max_beam_width", "4"], "beam search is not served"],
    [["--max_batch_sise", "4"], "Did you mean --max-batch-size?"],
    [["--backend", "pytorch"], "--backend must be auto, wasm or cuda"],
  ])("%j is refused by name", (argv, message) => {
    expect(() => serve(...argv)).toThrow(message);
  });

  test("that are not served have no setting of the same name", () => {
    for (const name of Object.keys(TRTLLM_ONLY_OPTIONS)) expect([...SETTINGS.keys()].map(snakeCase)).not.toContain(name);
  });
});

describe("keys", () => {
  test.each(Object.entries(TRTLLM_ONLY_KEYS).flatMap(([key, { harmless = [] }]) => harmless.map((value) => [key, value] as const)))("%s is taken as %j", (key, value) => {
    const [section, name] = key.split(".");
    const yaml = name === undefined ? `${key}: ${JSON.stringify(value)}` : `${section}:\n  ${name}: ${JSON.stringify(value)}`;
    expect(resolveConfig(readYaml(yaml, "f.yaml")).config).toEqual(resolveConfig().config);
  });

  test.each(Object.entries(TRTLLM_ONLY_KEYS))("%s is refused with its reason", (key, { reason }) => {
    const [section, name] = key.split(".");
    const yaml = name === undefined ? `${key}: other` : `${section}:\n  ${name}: other`;
    expect(() => readYaml(yaml, "f.yaml")).toThrow(`${key} is a key of TensorRT-LLM that is known, not supported: ${reason}`);
  });

  test("are the same to a program", () => {
    expect(givenOptions({ tensorParallelSize: 1, enableLora: true, quantConfig: null, kvCacheConfig: { dtype: "auto" } })).toEqual([]);
    expect(() => givenOptions({ tensorParallelSize: 2 })).toThrow("tensorParallelSize is a key of TensorRT-LLM");
  });
});
