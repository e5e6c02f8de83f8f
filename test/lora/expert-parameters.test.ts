/** Adapters on mixtures of experts: parameters of all experts, single experts, routers; and what is refused. */
import { describe, expect, test } from "bun:test";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { type AdapterChange, changedAdapter, fixtureAdapter, fixtureProgram, type RawTensor, type RawTensors } from "../helpers/adapter-files.ts";

const mixtral = fixtureProgram("base_mixtral");
/** Of `base_mixtral`, and the rank of its adapters. */
const [EXPERTS, HIDDEN, WIDTH, RANK] = [4, 32, 48, 2];

const read = (name: string) => readAdapter(fixtureAdapter(name), mixtral);
const changed = (change: AdapterChange, fixture = "moe_params") => readAdapter(changedAdapter(fixture, change), mixtral);
const OWNER = "base_model.model.model.layers.0.mlp.experts";
const of = (...shape: number[]): RawTensor => ({ dtype: "F32", shape, bytes: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)) });
const floats = ({ bytes }: { readonly bytes: Uint8Array }): Float32Array => new Float32Array(new Uint8Array(bytes).buffer);

describe("a parameter of all experts", () => {
  test("becomes a delta per expert: A by blocks of rows, B by every n-th column", async () => {
    const a = Float32Array.from({ length: EXPERTS * RANK * WIDTH }, (_, i) => i);
    const b = Float32Array.from({ length: HIDDEN * RANK * EXPERTS }, (_, i) => i);
    const { deltas, report } = await changed({
      tensors: (tensors) => {
        tensors.set(`${OWNER}.lora_A.weight`, { ...of(EXPERTS * RANK, WIDTH), bytes: new Uint8Array(a.buffer) });
        tensors.set(`${OWNER}.lora_B.weight`, { ...of(HIDDEN, RANK * EXPERTS), bytes: new Uint8Array(b.buffer) });
      },
    });
    const name = "model.layers.0.block_sparse_moe.experts.2.down_proj";
    const delta = deltas.find(({ site }) => mixtral.sites[site]!.name === name)!;
    expect(delta).toMatchObject({ offset: 0, width: HIDDEN, rank: RANK, scale: 2 });
    expect(floats(delta.a)).toEqual(a.subarray(2 * RANK * WIDTH, 3 * RANK * WIDTH));
    expect([...floats(delta.b).subarray(0, 4)]).toEqual([2, 2 + EXPERTS, 2 + 2 * EXPERTS, 2 + 3 * EXPERTS]);
    expect(report.modules.map(({ name: each, numModules }) => [each, numModules])).toEqual([["q_proj", 2], ["gate_up_proj", 8], ["down_proj", 8]]);
  });

  test("means the same however its tensors nest, which their shapes tell", async () => {
    const nested = (tensors: RawTensors): void => {
      for (const layer of [0, 1]) {
        for (const matrix of ["A", "B"]) {
          const [outer, inner] = ["", ".base_layer"].map((depth) => `base_model.model.model.layers.${layer}.mlp.experts${depth}.lora_${matrix}.weight`);
          const [x, y] = [tensors.get(outer!)!, tensors.get(inner!)!];
          tensors.set(outer!, y);
          tensors.set(inner!, x);
        }
      }
    };
    expect((await changed({ tensors: nested })).digest).toBe((await read("moe_params")).digest);
  });

  test("is left alone where the list of parameters does not name it, and by layers and exclusions for modules", async () => {
    const narrowed = await changed({ config: (config) => Object.assign(config, { exclude_modules: [".*experts.*"] }) });
    expect(narrowed.digest).toBe((await read("moe_params")).digest);
    expect(changed({ config: (config) => (config["target_parameters"] = ["mlp.experts.down_proj"]) })).rejects.toThrow(
      'is for a module that target_modules of adapter_config.json does not name',
    );
  });

  test.each<[string, AdapterChange, string]>([
    ["without its B", { tensors: (tensors) => tensors.delete(`${OWNER}.lora_B.weight`) }, "experts has no lora_B.weight; the file is incomplete"],
    ["that is missing", { tensors: (tensors) => ["A", "B"].forEach((m) => tensors.delete(`${OWNER}.lora_${m}.weight`)) }, "experts.0.down_proj is named by target_parameters, but the file has no tensors"],
    ["of other widths", { tensors: (tensors) => tensors.set(`${OWNER}.lora_A.weight`, of(EXPERTS * RANK, 47)) }, "has lora_A of shape [8, 47] and lora_B of [32, 8], but this base needs [rank x 4, 32] and [96, rank x 4] for model.layers.0.mlp.experts.gate_up_proj, or"],
    ["of three dimensions", { tensors: (tensors) => tensors.set(`${OWNER}.lora_A.weight`, of(EXPERTS, RANK, WIDTH)) }, "has lora_A of shape [4, 2, 48]"],
    ["that does not divide among the experts", { tensors: (tensors) => tensors.set(`${OWNER}.lora_A.weight`, of(7, WIDTH)).set(`${OWNER}.lora_B.weight`, of(HIDDEN, 7)) }, "both must be the rank times the base's 4 experts"],
    ["with A and B of two ranks", { tensors: (tensors) => tensors.set(`${OWNER}.lora_A.weight`, of(4, WIDTH)) }, "has lora_A of 4 rows and lora_B of 8 columns"],
    ["of another rank than configured", { config: (config) => (config["rank_pattern"] = { "mlp.experts.down_proj": 3 }) }, "the configured rank 3"],
    ["that is there twice", { tensors: (tensors) => ["A", "B"].forEach((m) => tensors.set(`${OWNER}.base_layer.lora_${m}.weight`, tensors.get(`${OWNER}.lora_${m}.weight`)!)) }, "which another tensor has too"],
    ["that is not finite", { tensors: (tensors) => floats(tensors.get(`${OWNER}.lora_B.weight`)!).set([1]) ?? tensors.get(`${OWNER}.lora_B.weight`)!.bytes.fill(0xff, 0, 4) }, "a value that is not finite"],
    ["of a layer that is not there", { tensors: (tensors) => tensors.set("base_model.model.model.layers.9.mlp.experts.lora_A.weight", of(8, WIDTH)) }, "which the base model does not have"],
    ["and of a single expert of it", { tensors: (tensors) => tensors.set("model.layers.0.block_sparse_moe.experts.1.down_proj.lora_A.weight", of(RANK, WIDTH)) }, "which the file holds apart too"],
  ])("%s is an error", async (_, how, message) => {
    expect(changed(how)).rejects.toMatchObject({ errorCode: "adapter_invalid", message: expect.stringContaining(message) });
  });

  test.each<[Record<string, unknown>, string, string]>([
    [{ target_parameters: "down_proj" }, "adapter_invalid", "target_parameters must be a list of strings, got a string"],
    [{ target_parameters: [""] }, "adapter_invalid", "must hold non-empty strings"],
    [{ use_dora: true }, "adapter_unsupported", "use_dora is set together with target_parameters, which PEFT does not train"],
    [{ lora_bias: true }, "adapter_unsupported", "lora_bias is set together with target_parameters"],
    [{ target_modules: [], target_parameters: ["nothing"] }, "adapter_invalid", "the adapter targets nothing, which matches no module"],
    [{ target_parameters: [] , target_modules: [] }, "adapter_invalid", "target_modules is empty"],
  ])("with a configuration of %p is an error", async (fields, code, message) => {
    expect(changed({ config: (config) => Object.assign(config, fields) })).rejects.toMatchObject({ errorCode: code, message: expect.stringContaining(message) });
  });

  test("is no hindrance for DoRA where the base has no experts", async () => {
    const named = changedAdapter("dora", { config: (config) => (config["target_parameters"] = ["mlp.experts.gate_up_proj"]) });
    const llama = fixtureProgram("base_llama");
    expect((await readAdapter(named, llama)).digest).toBe((await readAdapter(fixtureAdapter("dora"), llama)).digest);
  });

  test("takes no part in modules_to_save, whose names are then those of dense layers", async () => {
    const program = fixtureProgram("../experts/qwen3_step");
    const dense = program.sites.find(({ name, expert }) => name.endsWith("mlp.gate_up_proj") && expert === undefined)!;
    const saved = changedAdapter("../experts/qwen3_step-one_parameter", {
      config: (config) => (config["modules_to_save"] = ["up_proj"]),
      tensors: (tensors) => tensors.set(`base_model.model.model.layers.${dense.layer}.mlp.up_proj.weight`, of(dense.outWidth / 2, dense.inWidth)),
    });
    const { replacements } = await readAdapter(saved, program);
    expect(replacements!.map(({ site, rows, values }) => [program.sites[site], rows, values.rows])).toEqual([[dense, dense.outWidth / 2, dense.outWidth / 2]]);
  });

  test("of a dense base is none that it has", async () => {
    expect(readAdapter(fixtureAdapter("moe_params"), fixtureProgram("base_llama"))).rejects.toThrow("which the base model does not have");
  });
});

describe("single experts", () => {
  test("are all there, or the file is refused", async () => {
    const { report } = await read("moe_classic");
    expect(report.modules.map(({ name, numModules }) => [name, numModules])).toEqual([["w1", 8], ["w3", 8], ["w2", 8]]);
    const cut: AdapterChange = { tensors: (tensors) => ["A", "B"].forEach((m) => tensors.delete(`base_model.model.model.layers.1.block_sparse_moe.experts.3.w2.lora_${m}.weight`)) };
    expect(changed(cut, "moe_classic")).rejects.toThrow("experts.3.w2 is named by target_modules, but the file has no tensors for it");
  });

  test("follow lora_target_modules by TensorRT-LLM's names", async () => {
    const limited = (names: string[]) => readAdapter(fixtureAdapter("moe_classic"), mixtral, { targetModules: new Set(names) });
    expect((await limited(["experts.w1", "experts.w2", "experts.w3"])).deltas.length).toBe(24);
    expect(limited(["experts.w1", "experts.w3"])).rejects.toThrow("experts.0.w2 is changed, which lora_target_modules leaves out");
  });
});

describe("a router", () => {
  const gate = "model.layers.0.block_sparse_moe.gate";
  const single = (path: string, config: Record<string, unknown>): AdapterChange => ({
    config: (all) => Object.assign(all, { target_modules: [], target_parameters: [], ...config }),
    tensors: (tensors) => {
      tensors.clear();
      for (const layer of [0, 1]) {
        tensors.set(`base_model.model.${path.replace("layers.0", `layers.${layer}`)}.lora_A.weight`, { ...of(RANK, HIDDEN) });
        tensors.set(`base_model.model.${path.replace("layers.0", `layers.${layer}`)}.lora_B.weight`, { ...of(EXPERTS, RANK) });
      }
    },
  });

  test("is a module in files of transformers 4 and a parameter in those of 5, with the same meaning", async () => {
    const old = await changed(single(gate, { target_modules: ["gate"] }));
    const parameter = await changed(single("model.layers.0.mlp.gate", { target_parameters: ["gate.weight"] }));
    expect(old.deltas.map(({ site }) => mixtral.sites[site]!.name)).toEqual([gate, gate.replace("layers.0", "layers.1")]);
    expect(parameter.digest).toBe(old.digest);
  });

  test("as a parameter is found by patterns under that name", async () => {
    const { deltas } = await changed(single("model.layers.0.mlp.gate", { target_parameters: ["mlp.gate.weight"], alpha_pattern: { "layers.1.mlp.gate.weight": 7 } }));
    expect(deltas.map(({ scale }) => scale)).toEqual([2, 3.5]);
  });
});
