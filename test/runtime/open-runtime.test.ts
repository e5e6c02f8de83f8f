import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { AdapterId } from "../../src/core/ids.ts";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import type { WeightProgress } from "../../src/backend/read-weights.ts";
import { type Opened, openRuntime } from "../../src/runtime/open-runtime.ts";
import type { LocalRuntime } from "../../src/runtime/local-runtime.ts";
import { DEMO } from "../helpers/demo-server.ts";
import { collect, requestWith } from "../helpers/runtime.ts";

const open = (options: object) => openRuntime(resolveConfig(givenOptions({ model: DEMO, threads: 1, ...options })).config);
/** How a short generation ends: its reason, or its error. */
async function endOf(runtime: LocalRuntime, adapter: AdapterId): Promise<string> {
  const { finish } = await collect(runtime.generate(requestWith([1, 2, 3], { adapter, maxTokens: 2 })));
  return finish.error?.message ?? finish.reason;
}

const sql = [join(DEMO, "adapters/sql")];

describe("adapters that were found and cannot be served", () => {
  let opened: Opened;
  beforeAll(async () => {
    const unserved = join(import.meta.dir, "../fixtures/peft/tokens");
    opened = await open({ backend: "wasm", loraConfig: { loraDir: [join(DEMO, "adapters"), unserved] } });
  });
  afterAll(() => opened.runtime.close(0));

  test("are answered with the reason, and are none that are listed", async () => {
    expect(opened.refused.map(({ name }) => name)).toEqual(["tokens"]);
    for (const { name, error } of opened.refused) {
      await expect(opened.runtime.resolveAdapter({ name })).rejects.toMatchObject({
        errorCode: error.errorCode,
        message: `adapter ${name} cannot be served: ${error.message}`,
      });
      expect(opened.runtime.adapters().map((adapter) => adapter.name)).not.toContain(name);
    }
  });

  test("are not mixed up with names that nobody knows", async () => {
    await expect(opened.runtime.resolveAdapter({ name: "sqll" })).rejects.toMatchObject({
      errorCode: "adapter_not_found",
      message: 'no adapter is named "sqll" (did you mean sql?); known are arithmetic, extract-json, pirate, roman, sentiment, sql, summarize, summarize-nemo and 1 more',
    });
  });
});

test.each([
  [{}, { maxSequences: 64, maxRows: 512 }],
  [{ maxBatchSize: 3, maxNumTokens: 7 }, { maxSequences: 3, maxRows: 7 }],
  [{ maxBatchSize: 9, maxNumTokens: 7 }, { maxSequences: 9, maxRows: 9 }],
])("with %p a step is of %p at most", async (options, sizes) => {
  const { runtime } = await open({ backend: "wasm", ...options });
  expect(runtime.backend).toMatchObject(sizes);
  await runtime.close(0);
});

test("what was read of the weights is told, up to all", async () => {
  const told: WeightProgress[] = [];
  const { runtime } = await openRuntime({ ...resolveConfig(givenOptions({ model: DEMO, threads: 1, backend: "wasm" })).config, onWeights: (progress) => told.push(progress) });
  await runtime.close(0);
  expect(told.length).toBeGreaterThan(1);
  expect(told.at(-1)!.numBytes).toBe(told[0]!.totalBytes);
});

describe("limits of adapters", () => {
  test.each([
    [{ maxLoraRank: 4 }, {}, "raise max_lora_rank"],
    [{}, { maxAdapterSize: 4 }, "raise max_adapter_size"],
    [{ maxLoraRank: 4 }, { maxAdapterSize: 8 }, "raise max_lora_rank"],
    [{ loraTargetModules: ["mlp_4h_to_h"] }, {}, "mlp.gate_proj is changed, which lora_target_modules leaves out"],
  ])("%p and %p refuse what is beyond them", async (loraConfig, peftCacheConfig, message) => {
    const { runtime, served, refused } = await open({ peftCacheConfig, loraConfig: { loraDir: sql, ...loraConfig } });
    await runtime.close(0);
    expect(served).toEqual([]);
    expect(refused[0]!.error.message).toContain(message);
  });

  test("that hold everything an adapter has let it through, whatever value has no say", async () => {
    const loraTargetModules = ["attn_qkv", "attn_dense", "mlp_h_to_4h", "mlp_gate", "mlp_4h_to_h"];
    const loraConfig = { loraDir: sql, loraTargetModules, swapGateUpProjLoraBWeight: false };
    const { runtime, served } = await open({ loraConfig, peftCacheConfig: { maxAdapterSize: 64 } });
    await runtime.close(0);
    expect(served.map(({ name }) => name)).toEqual(["sql"]);
  });
});

describe("lora_ckpt_source nemo", () => {
  test("serves NeMo archives, and says why PEFT adapters beside them are not served", async () => {
    const { runtime, served, refused } = await open({ loraConfig: { loraDir: [...sql, join(DEMO, "adapters/summarize-nemo")], loraCkptSource: "nemo" } });
    await runtime.close(0);
    expect(served.map(({ name }) => name)).toEqual(["summarize-nemo"]);
    expect(refused.map(({ name, error }) => `${name}: ${error.message}`)).toEqual([
      "sql: lora_ckpt_source is nemo, but sql is a directory of a PEFT adapter; leave lora_ckpt_source out to serve it",
    ]);
  });

  test("may be asked of one path, and then holds for it alone", async () => {
    const { runtime } = await open({ adapterRoot: [join(DEMO, "adapters")], maxBatchSize: 1 });
    try {
      for (const [name, path] of [["file", "summarize-nemo/summarize.nemo"], ["directory", "summarize-nemo"]] as const) {
        const adapter = await runtime.resolveAdapter({ name, path, source: "nemo" });
        expect(await endOf(runtime, adapter)).toBe("length");
      }
      expect(await endOf(runtime, await runtime.resolveAdapter({ name: "peft", path: "sql" }))).toBe("length");
      const wrong = await runtime.resolveAdapter({ name: "wrong", path: "roman", source: "nemo" });
      expect(await endOf(runtime, wrong)).toBe("lora_ckpt_source is nemo, but roman is a directory of a PEFT adapter; leave lora_ckpt_source out to serve it");
    } finally {
      await runtime.close(0);
    }
  });
});

describe("what cannot be opened", () => {
  test.each([
    [{ model: null }, "model is missing; give the directory of the base model"],
    [{ model: "no/such/model" }, 'the model "no/such/model" is not a directory'],
    [{ loraConfig: { loraTargetModules: ["attn_p"] } }, 'got "attn_p" (did you mean attn_q?)'],
    [{ loraConfig: { loraTargetModules: ["constructor"] } }, "lora_target_modules must be among attn_qkv, attn_q"],
    [{ loraConfig: { trtllmModulesToHfModules: { attn_p: ["q"] } } }, 'trtllm_modules_to_hf_modules maps "attn_p", which is no module\'s name (did you mean attn_q?)'],
    [{ loraConfig: { maxLoras: 4, maxCpuLoras: 2 } }, "max_cpu_loras is 2 and max_loras 4, but host memory holds at least what the device does; raise max_cpu_loras to 4"],
    [{ peftCacheConfig: { hostCacheSize: 1000 } }, "peft_cache_config.host_cache_size gives adapters 1000 bytes, and one of rank 64 may need"],
    [{ peftCacheConfig: { numHostModuleLayer: 1 } }, "peft_cache_config.num_host_module_layer gives adapters"],
    [{ peftCacheConfig: { numDeviceModuleLayer: 1 } }, "peft_cache_config.num_device_module_layer gives adapters"],
    [{ peftCacheConfig: { deviceCachePercent: 1e-9 } }, "peft_cache_config.device_cache_percent gives adapters"],
  ])("is %p, a mistake of the settings", async (options, message) => {
    await expect(open(options)).rejects.toMatchObject({ errorCode: "config_invalid", message: expect.stringContaining(message) });
  });
});
