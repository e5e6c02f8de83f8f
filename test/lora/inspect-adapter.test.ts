import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveConfig, givenOptions } from "../../src/config/resolve.ts";
import { inspect, type Inspected } from "../../src/inspect.ts";
import { inspectAdapter } from "../../src/lora/inspect-adapter.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { changedAdapter, fixtureAdapter, fixtureProgram } from "../helpers/adapter-files.ts";

const fixture = fixtureAdapter;
const base = fixture("base_llama");
const settings = (options: object) => resolveConfig(givenOptions({ backend: "wasm", ...options })).config;
async function inspected(path: string, options: object = {}): Promise<Inspected & { isGood: boolean }> {
  const { text, isGood } = await inspect(settings(options), { path, isJson: true });
  return { ...(JSON.parse(text) as Inspected), isGood };
}

describe("what an adapter has of its own", () => {
  test("is told by its forms, and what they replace", async () => {
    const path = fixture("../replacements/tokens_untied");
    const model = fixture("../architectures/qwen3");
    const { base } = await inspected(path, { model });
    expect(base).toMatchObject({ isServed: true, forms: ["modules_to_save", "trainable_tokens"] });
    const { text } = await inspect(settings({ model }), { path, isJson: false });
    expect(text).toContain("forms     modules_to_save, trainable_tokens");
    expect(text).toContain("replaced  20 tokens of embed_tokens (trainable_tokens), norm (modules_to_save), lm_head (modules_to_save)");
  });
});

describe("what the files hold", () => {
  test("is told of PEFT's directory without any base", async () => {
    const path = fixture("bin_r4");
    const weights = readFileSync(join(path, "adapter_model.bin"));
    expect(await inspectAdapter(path)).toMatchObject({
      path,
      format: "peft",
      files: [
        { name: "adapter_config.json", container: null },
        { name: "adapter_model.bin", container: "torch zip", numBytes: weights.length, sha256: createHash("sha256").update(weights).digest("hex") },
      ],
      config: { peft_type: "LORA", r: 4, lora_alpha: 8 },
      tensors: [
        { name: "base_model.model.model.layers.*.self_attn.q_proj.lora_A.weight", numTensors: 2, shapes: [[4, 32]], dtypes: ["F32"] },
        { name: "base_model.model.model.layers.*.self_attn.q_proj.lora_B.weight", numTensors: 2, shapes: [[32, 4]] },
        { name: "base_model.model.model.layers.*.self_attn.v_proj.lora_A.weight" },
        { name: "base_model.model.model.layers.*.self_attn.v_proj.lora_B.weight" },
      ],
      numTensors: 8,
      problem: null,
    });
  });

  test.each([
    ["nemo/megatron_gz.nemo", "tar.gz", "torch zip"],
    ["nemo/legacy_pickle.nemo", "tar", "torch zip"],
    ["nemo/tp2.nemo", "tar", "torch zip"],
  ])("is told of the archive %s and its members", async (name, outer, inner) => {
    const { format, files, numTensors, problem } = await inspectAdapter(fixture(name));
    expect({ format, problem }).toEqual({ format: "nemo", problem: null });
    expect(files[0]!.container).toBe(outer as "tar");
    const weights = files.filter(({ name: file }) => file.endsWith(".ckpt"));
    expect(weights.length).toBeGreaterThan(0);
    for (const { container } of weights) expect([inner, "torch before 1.6"]).toContain(container!);
    expect(numTensors).toBeGreaterThan(0);
  });

  test.each([
    ["torch/legacy.bin", "torch before 1.6", /^a file of weights alone says nothing of ranks and scales/],
    ["torch/evil.ckpt", "torch zip", /evil\.ckpt: .*posix system|evil\.ckpt: .*print/],
    ["attn_r8/adapter_model.safetensors", "safetensors", /^a file of weights alone/],
  ])("is told of the single file %s, which is no adapter by itself", async (name, container, message) => {
    const { format, files, problem } = await inspectAdapter(fixture(name));
    expect(format).toBeNull();
    expect(files.map((file) => file.container)).toEqual([container as "safetensors"]);
    expect(problem!.message).toMatch(message);
  });

  test("is told up to the first thing that is wrong", async () => {
    const cut = changedAdapter("attn_r8", { files: { "adapter_model.safetensors": new Uint8Array(20) } });
    expect(await inspectAdapter(cut)).toMatchObject({ format: "peft", config: { r: 8 }, numTensors: 0, problem: { code: "adapter_invalid", message: expect.stringMatching(/^adapter_model\.safetensors: /) } });
    const unserved = changedAdapter("attn_r8", { config: (config) => void (config["use_qalora"] = true) });
    expect(await inspectAdapter(unserved)).toMatchObject({ numTensors: 12, problem: { code: "adapter_unsupported", field: "use_qalora" } });
  });

  test("of a directory that is no adapter are its files' names", async () => {
    const { format, files, problem } = await inspectAdapter(fixture("base_llama"));
    expect(format).toBeNull();
    expect(files.map(({ name }) => name)).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
    expect(problem).toMatchObject({ code: "adapter_invalid", message: "the adapter's directory has no adapter_config.json and no adapter_model.safetensors" });
  });

  test("of a NeMo 2 checkpoint comes with the way out", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lorikeet-nemo2-"));
    writeFileSync(join(directory, "adapter_metadata.json"), "{}");
    expect((await inspectAdapter(directory)).problem).toMatchObject({ code: "adapter_unsupported", message: expect.stringMatching(/llm\.export_ckpt/) });
  });
});

describe("what they would do on a base", () => {
  test("is what a load there does: the same digest and report", async () => {
    for (const name of ["dora", "lora_bias", "nemo/megatron_alpha.nemo", "bin_r4"]) {
      const { digest, forms, report } = await readAdapter(fixture(name), fixtureProgram("base_llama"));
      const found = await inspected(fixture(name), { model: base });
      expect(found.isGood).toBe(true);
      expect(found.base).toEqual({ model: base, backend: "wasm", isServed: true, digest, forms: [...forms!], report, problem: null });
    }
  });

  test.each<[string, object, string, RegExp]>([
    ["a rank above the limit", { loraConfig: { maxLoraRank: 4 } }, "adapter_too_large", /raise max_lora_rank/],
    ["another base", { model: join(REPOSITORY, "models/demo") }, "adapter_invalid", /is named by target_modules, but the file has no tensors for it/],
    ["modules that are left out", { loraConfig: { loraTargetModules: ["attn_q"] } }, "adapter_unsupported", /lora_target_modules leaves out/],
  ])("is nothing, with the reason, for %s", async (_, options, code, message) => {
    const found = await inspected(fixture("attn_r8"), { model: base, ...options });
    expect(found).toMatchObject({ isGood: false, problem: null, base: { isServed: false, digest: null, report: null, problem: { code } } });
    expect(found.base!.problem!.message).toMatch(message);
  });

  test.each(["moe_classic", "moe_params", "moe_params_rev", "moe_w123"])("is nothing for the experts of %s where the base has none", async (name) => {
    const found = await inspected(fixture(name), { model: base });
    expect(found.isGood).toBe(false);
    expect(found.numTensors).toBeGreaterThan(0);
    expect(found.base!.problem!.message.length).toBeGreaterThan(20);
  });

  test("is not judged without one", async () => {
    expect(await inspected(fixture("attn_r8"))).toMatchObject({ isGood: true, base: null });
    expect(await inspected(fixture("torch/evil.ckpt"))).toMatchObject({ isGood: false, base: null });
  });
});

test("names in a file cannot steer the terminal", async () => {
  const directory = changedAdapter("attn_r8", {
    tensors: (tensors) => {
      const [[name, tensor]] = tensors as unknown as [[string, never]];
      tensors.delete(name);
      tensors.set(`\u001b[2J\u202e${name}`, tensor);
    },
  });
  const { text, isGood } = await inspect(settings({ model: base }), { path: directory, isJson: false });
  expect(isGood).toBe(false);
  expect(text).toContain("\\u{1b}[2J\\u{202e}base_model");
  for (const char of ["\u001b", "\u202e"]) expect(text).not.toContain(char);
});
