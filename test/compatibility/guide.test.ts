/**
 * The examples of TensorRT-LLM's LoRA guide, one by one, with the demo's model and adapters in the place of the
 * guide's. What a Python example prints is compared with what transformers and PEFT answer.
 */
import { describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { parseCommandLine } from "../../src/config/cli.ts";
import { LLM, LoRARequest } from "../../src/index.ts";
import { startServer } from "../../src/serve.ts";
import { DEMO, readDemoGolden } from "../helpers/demo-server.ts";

const ADAPTERS = join(DEMO, "adapters");
const golden = readDemoGolden();
const first = (adapter: string | null) => golden.find((each) => each.adapter === adapter)!;
/** The guide's prompts are texts; the demo's adapters know conversations, here as token ids. */
const [sql, french, base] = [first("sql"), first("translate-fr"), first(null)];
const samplingParams = { maxTokens: 128 };
const nemoFile = (() => {
  const directory = join(ADAPTERS, "summarize-nemo");
  const file = readdirSync(directory).find((name) => name.endsWith(".nemo"));
  return file === undefined ? directory : join(directory, file);
})();

describe("Python, as a program", () => {
  test("single LoRA adapter", async () => {
    await using llm = new LLM({ model: DEMO, loraConfig: { loraDir: [join(ADAPTERS, "sql")], maxLoraRank: 64, maxLoras: 1, maxCpuLoras: 1 } });
    const loraRequest = new LoRARequest("my-lora-task", 0, join(ADAPTERS, "sql"));
    const outputs = await llm.generate([sql.prompt_token_ids], samplingParams, { loraRequest: [loraRequest] });
    for (const output of outputs) expect(output.text).toBe(sql.text);
  });

  test("multiple LoRA adapters, and a hole for the base model", async () => {
    await using llm = new LLM({
      model: DEMO,
      loraConfig: { loraTargetModules: ["attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"], maxLoraRank: 64, maxLoras: 4, maxCpuLoras: 8 },
    });
    const request1 = new LoRARequest("task-0", 0, join(ADAPTERS, "sql"));
    const request2 = new LoRARequest("task-1", 1, join(ADAPTERS, "translate-fr"));
    const prompts = [sql, french, base].map(({ prompt_token_ids: ids }) => ids);
    const outputs = await llm.generate(prompts, samplingParams, { loraRequest: [request1, request2, null] });
    expect(outputs.slice(0, 2).map(({ text }) => text)).toEqual([sql.text, french.text]);
    expect(outputs[2]!.outputs[0].tokenIds.slice(0, base.token_ids.length)).toEqual([...base.token_ids]);
  });

  test("quantization: FP8 is refused by name; weights in 8 bits are a setting, and adapters stay as they are", async () => {
    const quantConfig = { quantAlgo: "FP8", kvCacheQuantAlgo: "FP8" };
    expect(() => new LLM({ model: DEMO, ...{ quantConfig } })).toThrow("quantConfig is a key of TensorRT-LLM that is known, not supported: set dtype: int8");
    await using llm = new LLM({ model: DEMO, dtype: "int8", loraConfig: { loraDir: [join(ADAPTERS, "sql")] } });
    const output = await llm.generate(sql.prompt_token_ids, samplingParams, { loraRequest: new LoRARequest("lora-fp8", 0, join(ADAPTERS, "sql")) });
    expect(output.text).toContain("SELECT");
  });

  test("NeMo LoRA format", async () => {
    await using llm = new LLM({ model: DEMO, loraConfig: { loraDir: [join(ADAPTERS, "summarize-nemo")], loraCkptSource: "nemo", maxLoraRank: 64 } });
    const nemo = first("summarize-nemo");
    const loraRequest = new LoRARequest("nemo-task", 0, nemoFile, { loraCkptSource: "nemo" });
    expect((await llm.generate([nemo.prompt_token_ids], samplingParams, { loraRequest: [loraRequest] }))[0]!.text).toBe(nemo.text);
  });

  test("cache management", async () => {
    await using llm = new LLM({
      model: DEMO,
      loraConfig: { loraDir: [join(ADAPTERS, "sql")] },
      peftCacheConfig: { hostCacheSize: 1024 * 1024 * 1024, deviceCachePercent: 0.1 },
    });
    const output = await llm.generate(sql.prompt_token_ids, samplingParams, { loraRequest: new LoRARequest("sql", 1) });
    expect(output.text).toBe(sql.text);
    expect((await llm.stats()).hostCacheMaxBytes).toBe(1024 ** 3);
  });
});

describe("trtllm-serve", () => {
  const YAML = `
lora_config:
  lora_target_modules: ['attn_q', 'attn_k', 'attn_v', 'attn_dense', 'mlp_h_to_4h', 'mlp_4h_to_h', 'mlp_gate']
  max_lora_rank: 64
  max_loras: 4
  max_cpu_loras: 4
`;

  test("serves with --config, and the client names the adapter in lora_request", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lorikeet-guide-"));
    writeFileSync(join(directory, "config.yaml"), YAML);
    const command = parseCommandLine(["serve", DEMO, "--config", join(directory, "config.yaml"), "--port", "0", "--backend", "wasm", "--log_level", "error", "--adapter-root", ADAPTERS], {
      version: "1", demo: () => DEMO, env: {}, readFile: (path) => readFileSync(path, "utf8"),
    });
    if (command.kind !== "serve") throw new Error("not serve");
    const server = await startServer(command.resolved.config);
    try {
      const client = new OpenAI({ baseURL: `http://127.0.0.1:${server.http.port}/v1`, apiKey: "dummy", maxRetries: 0 });
      // The Python client's extra_body is the top level of the body.
      const extraBody = { lora_request: { lora_name: "lora-example-0", lora_int_id: 0, lora_path: join(ADAPTERS, "sql") } };
      const answer = await client.completions.create({ model: "demo", prompt: [...sql.prompt_token_ids], max_tokens: 128, temperature: 0, ...extraBody });
      expect(answer.choices[0]!.text).toBe(sql.text);
      const plain = await client.completions.create({ model: "demo", prompt: [...sql.prompt_token_ids], max_tokens: 20, temperature: 0 });
      expect(plain.choices[0]!.text).not.toBe(answer.choices[0]!.text);
    } finally {
      await server.stop();
      rmSync(directory, { recursive: true });
    }
  });
});

describe("trtllm-bench", () => {
  test("its configuration, with directories, targets and a module map, serves both adapters", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lorikeet-guide-"));
    for (const [id, name] of [["0", "sql"], ["1", "translate-fr"]] as const) {
      mkdirSync(join(directory, "loras", id), { recursive: true });
      for (const file of readdirSync(join(ADAPTERS, name))) copyFileSync(join(ADAPTERS, name, file), join(directory, "loras", id, file));
    }
    const yaml = `
lora_config:
  lora_dir:
    - ${join(directory, "loras/0")}
    - ${join(directory, "loras/1")}
  max_lora_rank: 64
  lora_target_modules: [attn_q, attn_k, attn_v, attn_dense, mlp_h_to_4h, mlp_4h_to_h, mlp_gate]
  trtllm_modules_to_hf_modules:
    attn_q: q_proj
    attn_k: k_proj
    attn_v: v_proj
    attn_dense: o_proj
    mlp_h_to_4h: gate_proj
    mlp_4h_to_h: down_proj
    mlp_gate: up_proj
`;
    const command = parseCommandLine(["serve", DEMO, "--config", "c.yaml", "--port", "0", "--backend", "wasm", "--log-level", "error"], { version: "1", demo: () => DEMO, env: {}, readFile: () => yaml });
    if (command.kind !== "serve") throw new Error("not serve");
    const server = await startServer(command.resolved.config);
    try {
      const { served, refused } = server.opened;
      expect([served.map(({ name }) => name), refused]).toEqual([["0", "1"], []]);
      const ask = async (model: string, { prompt_token_ids: prompt }: typeof sql) =>
        (await (await fetch(`http://127.0.0.1:${server.http.port}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model, prompt, max_tokens: 128, temperature: 0 }) })).json()) as { choices: { text: string }[] };
      expect((await ask("0", sql)).choices[0]!.text).toBe(sql.text);
      expect((await ask("1", french)).choices[0]!.text).toBe(french.text);
    } finally {
      await server.stop();
      rmSync(directory, { recursive: true });
    }
  });
});
