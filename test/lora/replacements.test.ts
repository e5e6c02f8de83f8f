/** What PEFT adapters have beside LoRA matrices of layers: embeddings, heads, whole modules, rows of tokens, biases. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { reportOn, describeReport } from "../../src/lora/adapter-report.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { targetModules } from "../../src/lora/target-modules.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import type { Program } from "../../src/model/program.ts";
import { type AdapterChange, changedAdapter, fixtureAdapter, fixtureProgram, type RawTensor, type RawTensors } from "../helpers/adapter-files.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const llama = fixtureProgram("base_llama");
const architecture = (name: string): Program => buildDecoderProgram(readModelConfig(join(REPOSITORY, "test/fixtures/architectures", name)));
/** Biases everywhere, and one matrix for embedding and head. */
const tied = architecture("llama_bias");
/** Norms of heads. */
const untied = architecture("qwen3");
/** Experts in every layer, five of them, and in the second of two, four of them. */
const [mixtral, sparse] = [architecture("../experts/mixtral"), architecture("../experts/qwen3_step")];
const of = (name: string, program: Program): Promise<AdapterWeights> => readAdapter(fixtureAdapter(`../replacements/${name}`), program);
const changed = (name: string, change: AdapterChange): string => changedAdapter(`../replacements/${name}`, change);

/** `SITE PART FORM ROWS` of each replacement. */
const replaced = ({ replacements = [] }: AdapterWeights, program: Program): string[] =>
  replacements.map(({ site, part, form, rows, values }) => `${program.sites[site]!.name} ${part} ${form} ${typeof rows === "number" ? `${rows}+${values.rows}` : rows.join()}`);
const adapted = ({ deltas }: AdapterWeights, program: Program): string[] => deltas.map(({ site, rank }) => `${program.sites[site]!.name} ${rank}`);

const floats = (shape: number[], value = 0): RawTensor => ({ dtype: "F32", shape, bytes: new Uint8Array(new Float32Array(shape.reduce((a, b) => a * b)).fill(value).buffer) });
const P = "base_model.model.";

describe("an embedding and a head with LoRA", () => {
  test("are deltas at sites of their own; the copies of base weights beside them are told apart", async () => {
    const adapter = await readAdapter(fixtureAdapter("embed_lmhead"), llama);
    expect(adapter.forms).toEqual(["head_lora", "embedding_lora", "base_copies"]);
    expect(adapted(adapter, llama).filter((line) => !line.includes("layers"))).toEqual(["model.embed_tokens 4", "lm_head 4"]);
    expect(replaced(adapter, llama)).toEqual(["model.embed_tokens weight base_copies 0+97", "lm_head weight base_copies 0+97"]);
    const [embedding] = adapter.deltas;
    expect(embedding).toMatchObject({ scale: 2, width: 32, a: { rows: 4, cols: 97 }, b: { rows: 32, cols: 4 } });
  });

  test("leave the other alone on a tied base, whose one copied matrix is both's", async () => {
    const adapter = await of("embedding", tied);
    expect(adapter.forms).toEqual(["embedding_lora", "base_copies"]);
    expect(adapted(adapter, tied).filter((line) => !line.includes("layers"))).toEqual(["model.embed_tokens 3"]);
    expect(replaced(adapter, tied)).toEqual(["model.embed_tokens weight base_copies 0+101", "lm_head weight base_copies 0+101"]);
  });

  test("have ranks and scales by their paths, as any other module", async () => {
    const { deltas } = await of("both_apart", tied);
    expect(deltas.map(({ rank, scale }) => [rank, scale])).toEqual([[4, 3 / Math.sqrt(4)], [9, 5 / Math.sqrt(9)]]);
  });

  test("are both there where ensure_weight_tying names one of a tied base; on other bases it says nothing", async () => {
    expect(adapted(await of("both_tied", tied), tied).filter((line) => !line.includes("layers"))).toEqual(["model.embed_tokens 2", "lm_head 2"]);
    const without = changed("both_tied", { config: (json) => (json["ensure_weight_tying"] = false) });
    await expect(readAdapter(without, tied)).rejects.toThrow('is for a module that target_modules of adapter_config.json does not name');
    const onUntied = await readAdapter(changed("both_untied", { config: (json) => (json["ensure_weight_tying"] = false) }), untied);
    expect((await of("both_untied", untied)).digest).toBe(onUntied.digest);
  });

  test("a pattern is tied as PEFT ties it", async () => {
    const pattern = changed("both_tied", { config: (json) => (json["target_modules"] = "(?:.*(embed_tokens|o_proj)|^model\\.embed_tokens$)") });
    expect((await readAdapter(pattern, tied)).digest).toBe((await of("both_tied", tied)).digest);
  });

  test("are where layers_to_transform leaves them: a head, which is its whole path, but no embedding", async () => {
    const layers = changed("embedding", {
      config: (json) => Object.assign(json, { target_modules: ["embed_tokens", "q_proj"], layers_to_transform: [0, 1] }),
      tensors: (tensors) => {
        for (const name of [...tensors.keys()]) if (name.includes("embed_tokens")) tensors.delete(name);
      },
    });
    expect(adapted(await readAdapter(layers, tied), tied)).toEqual([0, 1].map((layer) => `model.layers.${layer}.self_attn.qkv_proj 3`));
    const head = changed("head", { config: (json) => (json["layers_to_transform"] = [0, 1]) });
    expect((await readAdapter(head, tied)).digest).toBe((await of("head", tied)).digest);
  });

  test("are not among all-linear", async () => {
    const all = changedAdapter("all_r4", { config: (json) => (json["target_modules"] = "all-linear") });
    expect((await readAdapter(all, llama)).digest).toBe((await readAdapter(fixtureAdapter("all_r4"), llama)).digest);
  });

  test("fan_in_fan_out changes nothing, as in PEFT", async () => {
    const other = changed("both_untied", { config: (json) => (json["fan_in_fan_out"] = false) });
    expect((await readAdapter(other, untied)).digest).toBe((await of("both_untied", untied)).digest);
  });
});

describe("modules_to_save", () => {
  test("names modules by the ends of their paths, and by those of modules around them", async () => {
    expect(replaced(await of("saved_linear", tied), tied)).toEqual([
      "model.layers.0.self_attn.qkv_proj weight modules_to_save 48+12",
      "model.layers.0.self_attn.qkv_proj bias modules_to_save 48+12",
      "model.layers.0.self_attn.o_proj weight modules_to_save 0+36",
      "model.layers.0.self_attn.o_proj bias modules_to_save 0+36",
      "model.layers.1.self_attn.qkv_proj weight modules_to_save 48+12",
      "model.layers.1.self_attn.qkv_proj bias modules_to_save 48+12",
      "model.layers.1.mlp.gate_up_proj weight modules_to_save 0+52",
      "model.layers.1.mlp.gate_up_proj weight modules_to_save 52+52",
      "model.layers.1.mlp.gate_up_proj bias modules_to_save 0+52",
      "model.layers.1.mlp.gate_up_proj bias modules_to_save 52+52",
      "model.layers.1.mlp.down_proj weight modules_to_save 0+36",
      "model.layers.1.mlp.down_proj bias modules_to_save 0+36",
    ]);
  });

  test("norm means every norm, those of heads too", async () => {
    const norms = untied.sites.filter(({ kind }) => kind === "norm");
    expect(norms.length).toBe(9);
    expect((await of("saved_norms", untied)).replacements!.map(({ site }) => untied.sites[site]!)).toEqual(norms);
  });

  test("of a layer is all that is in it: its router, and a matrix of each expert from the parameter of all", async () => {
    const kinds = (names: readonly string[]) => names.map((name) => `model.layers.1.mlp.${name}`);
    expect(replaced(await of("saved_sparse", sparse), sparse)).toEqual(kinds([
      "gate weight modules_to_save 0+4",
      ...[0, 1, 2, 3].map((expert) => `experts.${expert}.gate_up_proj weight modules_to_save 0+24`),
      ...[0, 1, 2, 3].map((expert) => `experts.${expert}.down_proj weight modules_to_save 0+24`),
    ]));
    // A name of the base that transformers 5 does not have means the same here.
    const { digest, replacements } = await of("saved_experts", mixtral);
    expect(replacements!.length).toBe(10);
    for (const names of [["0.block_sparse_moe.experts"], ["layers.0.mlp.experts"], ["0.mlp.experts", "1.mlp.experts.down_proj"]]) {
      expect((await readAdapter(changed("saved_experts", set("modules_to_save", names)), mixtral)).digest).toBe(digest);
    }
  });

  test("of experts has each one's rows of the parameter", async () => {
    const parameter = Float32Array.from({ length: 5 * 28 * 20 }, (_, i) => i);
    const numbered = add("model.layers.0.mlp.experts.modules_to_save.default.down_proj", { dtype: "F32", shape: [5, 28, 20], bytes: new Uint8Array(parameter.buffer) });
    const change: AdapterChange = { tensors: (tensors) => (remove("experts.down_proj").tensors!(tensors), numbered.tensors!(tensors)) };
    const { replacements } = await readAdapter(changed("saved_experts", change), mixtral);
    const third = replacements!.find(({ site }) => mixtral.sites[site]!.name === "model.layers.0.block_sparse_moe.experts.2.down_proj")!;
    expect(third.values).toMatchObject({ rows: 28, cols: 20 });
    expect(new Float32Array(new Uint8Array(third.values.bytes).buffer)).toEqual(parameter.subarray(2 * 28 * 20, 3 * 28 * 20));
  });

  test("of a tied base is what it names, and both with ensure_weight_tying", async () => {
    expect(replaced(await of("saved_head", tied), tied)).toEqual(["lm_head weight modules_to_save 0+101"]);
    expect(replaced(await of("saved_embedding", tied), tied)).toEqual(["model.embed_tokens weight modules_to_save 0+101"]);
    expect(replaced(await of("saved_tied", tied), tied)).toEqual(["model.embed_tokens weight modules_to_save 0+101", "lm_head weight modules_to_save 0+101"]);
  });

  test("is read in older spellings", async () => {
    for (const spelling of ["modules_to_save.weight", "modules_to_save.default.weight"]) {
      const older = changed("saved_head", {
        tensors: (tensors) => {
          tensors.set(`${P}lm_head.${spelling}`, tensors.get(`${P}lm_head.weight`)!);
          tensors.delete(`${P}lm_head.weight`);
        },
      });
      expect((await readAdapter(older, tied)).digest).toBe((await of("saved_head", tied)).digest);
    }
  });

  test("may name what a base does not have, such as a classifier: that is told", async () => {
    const both = await readAdapter(changed("saved_head", { config: (json) => (json["modules_to_save"] = ["lm_head", "score"]) }), tied);
    expect(both.report.warnings).toEqual(['adapter_config.json names "score" in modules_to_save, which is no module of this base']);
    expect(both.digest).toBe((await of("saved_head", tied)).digest);
  });

  test("is told in the report, and counted", async () => {
    const adapter = await of("tokens_untied", untied);
    expect(adapter.forms).toEqual(["modules_to_save", "trainable_tokens"]);
    expect(adapter.report.replaced).toEqual([
      { name: "embed_tokens", form: "trainable_tokens", part: "weight", numModules: 1, numRows: 20 },
      { name: "norm", form: "modules_to_save", part: "weight", numModules: 1, numRows: 28 },
      { name: "lm_head", form: "modules_to_save", part: "weight", numModules: 1, numRows: 101 },
    ]);
    expect(new Map(describeReport(adapter.report)).get("replaced")).toBe("20 tokens of embed_tokens (trainable_tokens), norm (modules_to_save), lm_head (modules_to_save)");
    const lora = adapter.deltas.reduce((sum, { a, b }) => sum + a.bytes.length + b.bytes.length, 0);
    expect(adapter.report.numBytes).toBe(lora + 4 * 28 * (20 + 1 + 101));
    expect(reportOn(adapter, untied, { keeps: ["BF16"], roundsTo: "bfloat16" }).warnings).toEqual(["matrices in F32 are rounded to bfloat16 on this device"]);
  });
});

describe("rows of tokens", () => {
  test("are sorted by token, and on a tied base the head's as well", async () => {
    const adapter = await of("tokens_tied", tied);
    expect(replaced(adapter, tied)).toEqual(["model.embed_tokens weight trainable_tokens 3,17,50", "lm_head weight trainable_tokens 3,17,50"]);
    const sorted = changed("tokens_tied", {
      config: (json) => (json["trainable_token_indices"] = [3, 17, 50]),
      tensors: (tensors) => {
        const tensor = tensors.get(`${P}model.embed_tokens.token_adapter.trainable_tokens_delta`)!;
        const rowBytes = tensor.bytes.length / 3;
        tensor.bytes = Buffer.concat([1, 2, 0].map((row) => tensor.bytes.subarray(row * rowBytes, (row + 1) * rowBytes)));
      },
    });
    expect((await readAdapter(sorted, tied)).digest).toBe(adapter.digest);
  });

  test("of embedding and head differ where the configuration says so", async () => {
    expect(replaced(await of("tokens_apart", tied), tied)).toEqual(["model.embed_tokens weight trainable_tokens 3,50", "lm_head weight trainable_tokens 7"]);
  });
});

describe("trained biases", () => {
  test("of all modules, or of those with LoRA", async () => {
    expect(replaced(await of("bias_all", tied), tied).length).toBe(14);
    const qwen2 = architecture("qwen2");
    expect(replaced(await of("bias_lora_only", qwen2), qwen2)).toEqual(
      [0, 1].flatMap((layer) => ["0+40", "40+8"].map((rows) => `model.layers.${layer}.self_attn.qkv_proj bias base_bias ${rows}`)),
    );
  });

  test("are read as PEFT named them before its layers wrapped the base's", async () => {
    const older = changed("bias_all", {
      tensors: (tensors) => {
        for (const [name, tensor] of [...tensors]) if (tensors.delete(name)) tensors.set(name.replace(".base_layer.bias", ".bias"), tensor);
      },
    });
    expect((await readAdapter(older, tied)).digest).toBe((await of("bias_all", tied)).digest);
  });
});

const flip = (tensors: RawTensors, end: string): void => void (tensors.get([...tensors.keys()].find((name) => name.endsWith(end))!)!.bytes[0]! ^= 1);

describe("the digest changes with", () => {
  test.each([
    ["a number of a saved head", "saved_head", tied, { tensors: (tensors) => flip(tensors, "lm_head.weight") }],
    ["a token", "tokens_tied", tied, { config: (json) => (json["trainable_token_indices"] = [50, 3, 18]) }],
    ["a trained bias", "bias_all", tied, { tensors: (tensors) => flip(tensors, ".base_layer.bias") }],
    ["a copy of the base's", "embedding", tied, { tensors: (tensors) => flip(tensors, "embed_tokens.base_layer.weight") }],
    ["whether it is a copy", "copies_unnamed", untied, { config: (json) => (json["modules_to_save"] = ["embed_tokens", "lm_head"]) }],
  ] as readonly (readonly [string, string, Program, AdapterChange])[])("%s", async (_, name, program, change) => {
    expect((await readAdapter(changed(name, change), program)).digest).not.toBe((await of(name, program)).digest);
  });
});

const remove = (...ends: string[]): AdapterChange => ({
  tensors: (tensors) => {
    for (const name of [...tensors.keys()]) if (ends.some((end) => name.endsWith(end))) tensors.delete(name);
  },
});
const set = (field: string, value: unknown): AdapterChange => ({ config: (json) => (json[field] = value) });
const add = (name: string, tensor: RawTensor): AdapterChange => ({ tensors: (tensors) => tensors.set(`${P}${name}`, tensor) });
const TOKENS = "trainable_token_indices";

/** [what is wrong, fixture, base, the change, a part of the message, the code if another than adapter_invalid] */
const BAD: readonly (readonly [string, string, Program, AdapterChange, string, string?])[] = [
  ["a saved head that is not there", "saved_head", tied, remove("lm_head.weight"), "modules_to_save of adapter_config.json names the weight of module lm_head, which the file does not have"],
  ["a saved linear module without its bias", "saved_linear", tied, remove("v_proj.bias"), "names the bias of module model.layers.0.self_attn.v_proj, which the file does not have"],
  ["a saved module that is not named", "saved_final_norm", untied, set("modules_to_save", ["model.norm"]), "that modules_to_save of adapter_config.json does not name"],
  ["a saved head of another vocabulary", "saved_head", tied, add("lm_head.weight", floats([103, 36])), "shape [103, 36], but module lm_head of this base needs [101, 36]; serve an adapter whose vocabulary was changed on a base that has it"],
  ["a saved norm of another width", "saved_final_norm", untied, add("model.norm.weight", floats([29])), "has shape [29, 1], but module model.norm of this base needs [28, 1]"],
  ["a saved module of the wrong kind", "saved_final_norm", untied, add("model.norm.weight", floats([28, 28])), "must be a vector"],
  ["a saved head with NaN", "saved_head", tied, add("lm_head.weight", floats([101, 36], Number.NaN)), "not finite at row 0, column 0"],
  ["a saved head twice", "saved_head", tied, add("lm_head.modules_to_save.weight", floats([101, 36])), "the weight of module lm_head is there twice"],
  ["rows of tokens of a tied base twice", "tokens_beside_copies", tied, add("lm_head.token_adapter.trainable_tokens_delta", floats([3, 36])), "the weight of module model.embed_tokens is there twice"],
  ["the base's own weight beside none", "saved_head", tied, add("model.embed_tokens.original_module.weight", floats([101, 36])), "that modules_to_save of adapter_config.json does not name"],
  ["a classifier", "saved_head", tied, add("score.weight", floats([2, 36])), 'is for module "score", which the base model does not have'],
  ["LoRA on a module that is saved too", "saved_linear", tied, { config: (json) => (json["modules_to_save"] = ["v_proj", "1.mlp", "0.self_attn.o_proj", "1.self_attn.o_proj"]) }, "is for a module that target_modules of adapter_config.json does not name"],
  ["modules_to_save that is a number", "saved_head", tied, set("modules_to_save", 3), "modules_to_save must be a string or a list of strings"],
  ["all experts of a layer that has none", "saved_head", tied, add("model.layers.0.mlp.experts.gate_up_proj", floats([2, 8, 36])), 'is for module "model.layers.0.mlp.experts", which the base model does not have'],
  ["experts of another number", "saved_experts", mixtral, add("model.layers.0.mlp.experts.down_proj", floats([4, 28, 20])), "has shape [4, 28, 20], but this base needs [5, 28, 20] for model.layers.0.mlp.experts.down_proj"],
  ["experts of one matrix", "saved_experts", mixtral, add("model.layers.0.mlp.experts.down_proj", floats([140, 20])), "has shape [140, 20], but this base needs [5, 28, 20]"],
  ["experts with NaN", "saved_experts", mixtral, add("model.layers.0.mlp.experts.down_proj", floats([5, 28, 20], Number.NaN)), "experts.0.down_proj.weight\" has a value that is not finite at row 0, column 0"],
  ["experts without their other parameter", "saved_experts", mixtral, remove("experts.down_proj"), "modules_to_save of adapter_config.json names the weight of module model.layers.0.block_sparse_moe.experts.0.w2, which the file does not have"],
  ["experts that are not there at all", "saved_experts", mixtral, { tensors: (tensors) => [...tensors.keys()].filter((name) => name.includes("experts")).forEach((name) => tensors.delete(name)) }, "names the weight of module model.layers.0.block_sparse_moe.experts.0.w1, which the file does not have"],
  ["experts that are not named", "saved_experts", mixtral, set("modules_to_save", ["1.mlp.experts"]), "that modules_to_save of adapter_config.json does not name"],
  ["a single expert of those that are there together", "saved_experts", mixtral, add("model.layers.0.block_sparse_moe.experts.2.gate_up_proj.weight", floats([40, 28])), "of module model.layers.0.block_sparse_moe.experts.2.gate_up_proj is there twice"],
  ["a part of a single expert of those that are there together", "saved_experts", mixtral, add("model.layers.0.block_sparse_moe.experts.2.w3.weight", floats([20, 28])), "module model.layers.0.block_sparse_moe.experts.2.w3 overlaps another that is replaced too"],
  ["all experts twice", "saved_experts", mixtral, add("model.layers.0.mlp.experts.modules_to_save.down_proj", floats([5, 28, 20])), 'changes "model.layers.0.block_sparse_moe.experts.0.down_proj.weight", which the file holds apart too'],
  ["a layer of experts without its router", "saved_sparse", sparse, remove("mlp.gate.weight"), "names the weight of module model.layers.1.mlp.gate, which the file does not have"],
  ["a router by a name of transformers 5 that is not there", "saved_router", mixtral, { config: (json) => (json["modules_to_save"] = ["mlp.gate", "norm"]), ...remove("block_sparse_moe.gate.weight", "mlp.gate.weight") }, "names the weight of module model.layers.0.block_sparse_moe.gate, which the file does not have"],
  ["an embedding without its B", "embedding", tied, remove("lora_embedding_B"), "model.embed_tokens has no lora_B.weight"],
  ["an embedding for another vocabulary", "embedding", tied, add("model.embed_tokens.lora_embedding_A", floats([3, 99])), "has shape [3, 99], but this base and the configured rank 3 need [3, 101]"],
  ["an embedding spelled as a linear layer", "embedding", tied, { tensors: (tensors) => tensors.set(`${P}model.embed_tokens.lora_A.weight`, tensors.get(`${P}model.embed_tokens.lora_embedding_A`)!) && tensors.delete(`${P}model.embed_tokens.lora_embedding_A`) }, "is not spelled as an embedding's, which module model.embed_tokens is"],
  ["a bias behind an embedding's B", "embedding", tied, set("lora_bias", true), "model.embed_tokens is an embedding, for which PEFT does not train lora_bias", "adapter_unsupported"],
  ["a copy of a linear layer's weight", "head", tied, add("model.layers.0.self_attn.v_proj.base_layer.weight", floats([12, 36])), "that modules_to_save of adapter_config.json does not name"],
  ["tying whose other half is missing", "both_tied", tied, { tensors: (tensors) => ["A", "B"].forEach((matrix) => tensors.delete(`${P}lm_head.lora_${matrix}.weight`)) }, "module lm_head is named by target_modules, but the file has no tensors for it"],
  ["a token beyond the vocabulary", "tokens_untied", untied, { config: (json) => ((json[TOKENS] as number[])[0] = 101) }, "trainable_token_indices names token 101, but this base has 101"],
  ["a token named twice", "tokens_untied", untied, { config: (json) => ((json[TOKENS] as number[])[0] = 58) }, "trainable_token_indices names a token twice"],
  ["a negative token", "tokens_tied", tied, set(TOKENS, [50, 3, -1]), "trainable_token_indices must be a whole number from 0"],
  ["tokens that are no list", "tokens_tied", tied, set(TOKENS, 3), "must be a list of token ids, or an object of such lists"],
  ["fewer tokens than rows", "tokens_tied", tied, set(TOKENS, [50, 3]), "has 3 rows for the 2 tokens"],
  ["rows of tokens that are missing", "tokens_tied", tied, remove("trainable_tokens_delta"), "trainable_token_indices of adapter_config.json names the rows of tokens of module model.embed_tokens"],
  ["rows of tokens that nothing names", "tokens_tied", tied, set(TOKENS, null), "that trainable_token_indices of adapter_config.json does not name"],
  ["tokens of no embedding", "tokens_tied", tied, set(TOKENS, { embed_tokens: [50, 3, 17], wte: [1] }), 'names "wte", which is no embedding'],
  ["tokens and a saved head on a tied base", "tokens_tied", tied, { config: (json) => Object.assign(json, { modules_to_save: ["lm_head"], target_modules: ["q_proj"] }), tensors: (tensors) => { ["A", "B"].forEach((matrix) => tensors.delete(`${P}lm_head.lora_${matrix}.weight`)); tensors.set(`${P}lm_head.weight`, floats([101, 36])); } }, "whose rows trainable_token_indices replaces on this base", "adapter_unsupported"],
  ["tokens and DoRA on one matrix", "dora_edges", untied, { config: (json) => (json[TOKENS] = { lm_head: [4] }), ...add("lm_head.token_adapter.trainable_tokens_delta", floats([1, 28])) }, "rows of trainable_token_indices and a magnitude of use_dora", "adapter_unsupported"],
  ["biases that nothing names", "bias_all", tied, set("bias", "none"), "that bias of adapter_config.json does not name"],
  ["biases of modules without LoRA", "bias_all", tied, set("bias", "lora_only"), "that bias of adapter_config.json does not name"],
  ["a bias that is missing", "bias_all", tied, remove("layers.1.self_attn.k_proj.bias"), "bias of adapter_config.json names the bias of module model.layers.1.self_attn.k_proj"],
  ["a bias that the base does not have", "saved_final_norm", untied, { config: (json) => (json["bias"] = "all"), ...add("model.layers.0.mlp.up_proj.bias", floats([44])) }, "is a bias, which module model.layers.0.mlp.up_proj of this base does not have"],
  ["a bias of another width", "bias_all", tied, add("model.layers.0.self_attn.k_proj.bias", floats([11])), "has shape [11, 1], but module model.layers.0.self_attn.k_proj of this base needs [12, 1]"],
  ["an invocation and a head with LoRA", "head", tied, set("alora_invocation_tokens", [5]), "alora_invocation_tokens is set together with changes of lm_head", "adapter_unsupported"],
  ["an invocation and an embedding with LoRA", "embedding", tied, set("alora_invocation_tokens", [5]), "alora_invocation_tokens is set together with changes of model.embed_tokens", "adapter_unsupported"],
  ["an invocation and a saved head", "saved_head", tied, set("alora_invocation_tokens", [5]), "alora_invocation_tokens is set together with modules_to_save", "adapter_unsupported"],
  ["ensure_weight_tying that is text", "embedding", tied, set("ensure_weight_tying", "yes"), "ensure_weight_tying must be true or false"],
];

describe("refused with one clear error", () => {
  test.each(BAD.map((one) => [one[0], one] as const))("%s", async (_, [, name, program, change, message, code = "adapter_invalid"]) => {
    await expect(readAdapter(changed(name, change), program)).rejects.toMatchObject({ errorCode: code, message: expect.stringContaining(message) });
  });

  test("modules that lora_target_modules leaves out", async () => {
    const limits = { targetModules: targetModules(["attn_q", "attn_k"]) };
    await expect(readAdapter(fixtureAdapter("../replacements/saved_head"), tied, limits)).rejects.toMatchObject({ errorCode: "adapter_unsupported", message: "module lm_head is changed, which lora_target_modules leaves out" });
    // A copy of what the base has changes nothing that could be left out.
    expect((await readAdapter(fixtureAdapter("../replacements/copies_unnamed"), untied, limits)).forms).toEqual(["base_copies"]);
  });
});
