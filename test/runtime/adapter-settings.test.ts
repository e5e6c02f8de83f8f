/** Every field of `lora_config` and `peft_cache_config`, by what it does to a running Lorikeet. */
import { describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { LORA_SETTINGS, PEFT_CACHE_SETTINGS } from "../../src/config/settings.ts";
import { readYaml } from "../../src/config/yaml-file.ts";
import { type Opened, openRuntime } from "../../src/runtime/open-runtime.ts";
import { encodeSafetensors, readRawTensors } from "../helpers/adapter-files.ts";
import { DEMO } from "../helpers/demo-server.ts";
import { collect, requestWith } from "../helpers/runtime.ts";

const adapter = (name: string): string => join(DEMO, "adapters", name);
const PLAIN = ["extract-json", "sentiment", "sql", "summarize"];

/** Opens the demo with a part of a configuration file, looks, and closes. */
async function withYaml<T>(yaml: string, look: (opened: Opened) => T | Promise<T>, loraDir: readonly string[] = PLAIN.map(adapter)): Promise<T> {
  const base = givenOptions({ model: DEMO, backend: "wasm", threads: 1, maxSeqLen: 256, loraConfig: { loraDir } });
  const opened = await openRuntime(resolveConfig(base, readYaml(yaml, "test.yaml")).config);
  try {
    return await look(opened);
  } finally {
    await opened.runtime.close(0);
  }
}
const statesOf = ({ runtime }: Opened): Record<string, string> => Object.fromEntries(runtime.adapters().map(({ name, state }) => [name, state]));
const refusals = ({ refused }: Opened): string => refused.map(({ name, error }) => `${name}: ${error.message}`).join("\n");

async function idsOf({ runtime }: Opened, name: string): Promise<readonly number[]> {
  const { ids, finish } = await collect(runtime.generate(requestWith([0, 2, 353, 3, 314, 543, 362], { adapter: await runtime.resolveAdapter({ name }), maxTokens: 6 })));
  expect(finish.error).toBeNull();
  return ids;
}

/** Adapters being read right after a request came for each. */
async function numLoading(opened: Opened): Promise<number> {
  const { runtime } = opened;
  const ids = await Promise.all(PLAIN.map((name) => runtime.resolveAdapter({ name })));
  const generations = ids.map((id) => runtime.generate(requestWith([1, 2], { adapter: id, maxTokens: 2 })));
  const states = Object.values(statesOf(opened));
  for (const { finish } of await Promise.all(generations.map(collect))) expect(finish.reason).toBe("length");
  return states.filter((state) => state === "loading").length;
}

/** Each field, a value for it, and what shows that it counts. */
const FIELDS: Readonly<Record<string, readonly [yaml: string, look: (opened: Opened) => unknown, expected: unknown]>> = {
  "lora_config.lora_dir": ["", statesOf, { "extract-json": "host", sentiment: "host", sql: "host", summarize: "host" }],
  "lora_config.lora_fetch": ["lora_config: {lora_fetch: start}", ({ served }) => served.length, 4],
  "lora_config.lora_target_modules": ["lora_config: {lora_target_modules: [attn_q, attn_k, attn_v]}", (opened) => Object.keys(statesOf(opened)), ["sentiment", "summarize"]],
  "lora_config.max_lora_rank": ["lora_config: {max_lora_rank: 8}", refusals, expect.stringMatching(/^sql: .*raise max_lora_rank/)],
  "lora_config.max_loras": ["lora_config: {max_loras: 3}", ({ runtime }) => runtime.stats().numSlots, 3],
  "lora_config.max_cpu_loras": ["lora_config: {max_cpu_loras: 2}", statesOf, { "extract-json": "registered", sentiment: "registered", sql: "host", summarize: "host" }],
  "lora_config.lora_ckpt_source": ["lora_config: {lora_ckpt_source: nemo}", ({ refused }) => refused.length, 4],
  "lora_config.nemo_qkv_layout": ["lora_config: {nemo_qkv_layout: sequential}", ({ served }) => served.length, 4],
  "lora_config.trtllm_modules_to_hf_modules": ["lora_config: {trtllm_modules_to_hf_modules: {attn_q: q_proj, attn_k: [k_proj], moe_router: gate}}", ({ served }) => served.length, 4],
  "lora_config.swap_gate_up_proj_lora_b_weight": ["lora_config: {swap_gate_up_proj_lora_b_weight: false}", ({ served }) => served.length, 4],
  "peft_cache_config.host_cache_size": ["peft_cache_config: {host_cache_size: 0}", statesOf, { "extract-json": "registered", sentiment: "registered", sql: "registered", summarize: "registered" }],
  "peft_cache_config.device_cache_percent": ["peft_cache_config: {device_cache_percent: 0.5}", async (opened) => (await idsOf(opened, "sql")).length > 0, true],
  "peft_cache_config.num_host_module_layer": ["peft_cache_config: {num_host_module_layer: 4000}", ({ runtime }) => runtime.stats().hostCacheMaxBytes, // Of the largest module, gate and up in one, in float32.
    4000 * 4 * (256 + 2 * 768)],
  "peft_cache_config.num_device_module_layer": ["peft_cache_config: {num_device_module_layer: 4000}", async (opened) => (await idsOf(opened, "sql")).length > 0, true],
  "peft_cache_config.max_adapter_size": ["peft_cache_config: {max_adapter_size: 8}", refusals, expect.stringMatching(/^sql: .*raise max_adapter_size/)],
  "peft_cache_config.optimal_adapter_size": ["peft_cache_config: {optimal_adapter_size: 16}", ({ served }) => served.length, 4],
  "peft_cache_config.num_put_workers": ["peft_cache_config: {num_put_workers: 1, host_cache_size: 0}", numLoading, 1],
  "peft_cache_config.num_ensure_workers": ["peft_cache_config: {num_ensure_workers: 3, num_put_workers: 8, host_cache_size: 0}", numLoading, 3],
  "peft_cache_config.num_copy_streams": ["peft_cache_config: {num_copy_streams: 4}", ({ served }) => served.length, 4],
  "peft_cache_config.max_pages_per_block_host": ["peft_cache_config: {max_pages_per_block_host: 48}", ({ served }) => served.length, 4],
  "peft_cache_config.max_pages_per_block_device": ["peft_cache_config: {max_pages_per_block_device: 16}", ({ served }) => served.length, 4],
};

describe("a field", () => {
  test("is tested here, every one", () => {
    const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`);
    const all = [...Object.keys(LORA_SETTINGS).map((name) => `lora_config.${snake(name)}`), ...Object.keys(PEFT_CACHE_SETTINGS).map((name) => `peft_cache_config.${snake(name)}`)];
    expect(Object.keys(FIELDS).sort()).toEqual(all.sort());
  });

  test.each(Object.entries(FIELDS))("%s", async (_, [yaml, look, expected]) => {
    expect(await withYaml(yaml === "" ? "threads: 1" : yaml, look)).toEqual(expected);
  });

  test("lora_prefetch_dir is refused with the way out, as it is upstream", () => {
    expect(() => readYaml("peft_cache_config: {lora_prefetch_dir: x}", "test.yaml")).toThrow("name adapters in lora_config.lora_dir");
  });
});

/** The demo's `summarize` with its modules under the names of another architecture. */
function renamed(names: Readonly<Record<string, string>>, targets: unknown): string {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-renamed-"));
  cpSync(adapter("summarize"), directory, { recursive: true });
  const path = join(directory, "adapter_model.safetensors");
  const config = JSON.parse(readFileSync(join(directory, "adapter_config.json"), "utf8")) as Record<string, unknown>;
  writeFileSync(join(directory, "adapter_config.json"), JSON.stringify({ ...config, target_modules: targets }));
  const tensors = [...readRawTensors(path)].map(([name, tensor]) => {
    const other = name.replace("model.layers.", "transformer.h.").replace(/self_attn\.(\w+)\./, (_, module: string) => `attention.${names[module]}.`);
    return [other, tensor] as const;
  });
  writeFileSync(path, encodeSafetensors(new Map(tensors)));
  return directory;
}

describe("trtllm_modules_to_hf_modules", () => {
  const map = "lora_config: {trtllm_modules_to_hf_modules: {attn_q: attention.wq, attn_k: [key, wk], attn_v: wv}}";

  test.each([
    ["a list of names", ["wq", "attention.wk", "wv"]],
    ["a pattern", ".*attention.w[qkv]"],
  ])("serves an adapter that names modules otherwise, by %s, as the same adapter", async (_, targets) => {
    const other = renamed({ q_proj: "wq", k_proj: "wk", v_proj: "wv" }, targets);
    await withYaml(map, async (opened) => {
      expect(refusals(opened)).toBe("");
      expect(await idsOf(opened, "other")).toEqual(await idsOf(opened, "summarize"));
      const [digest, same] = opened.runtime.adapters().map((each) => each.digest);
      expect(digest).toBe(same!);
    }, [adapter("summarize"), `other=${other}`]);
  });

  test("does not hide a name that it leaves out", async () => {
    const other = renamed({ q_proj: "wq", k_proj: "wk", v_proj: "value" }, ["wq", "wk", "value"]);
    expect(await withYaml(map, refusals, [`other=${other}`])).toContain("attention.value");
  });
});
