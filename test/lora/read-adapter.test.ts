import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdapterError, type LorikeetError } from "../../src/core/errors.ts";
import { checkForms } from "../../src/lora/adapter-forms.ts";
import { describeReport } from "../../src/lora/adapter-report.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import type { AdapterLimits } from "../../src/lora/assemble-adapter.ts";
import { encodeTorch, pickledDict } from "../helpers/archives.ts";
import { type AdapterChange, changedAdapter, fixtureAdapter, fixtureProgram, type RawTensors } from "../helpers/adapter-files.ts";

const llama = fixtureProgram("base_llama");
const phi3 = fixtureProgram("base_phi3");
const read = (name: string) => readAdapter(fixtureAdapter(name), name.startsWith("phi3") ? phi3 : llama);

const A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
const B0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
const floats = (values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const poison = (name: string, value: number) => (tensors: RawTensors) => {
  tensors.get(name)!.bytes.set(floats([value]), 12);
};
const config = (field: string, value: unknown): AdapterChange => ({ config: (json) => (json[field] = value) });
const rawHeader = (json: string, data = 0): Uint8Array => {
  const bytes = new TextEncoder().encode(json);
  return Buffer.concat([new Uint8Array(new BigUint64Array([BigInt(bytes.length)]).buffer), bytes, new Uint8Array(data)]);
};

describe("PEFT fixtures", () => {
  const summary = async (name: string) =>
    (await read(name)).deltas.map(({ site, offset, width, rank, scale }) => {
      const program = name.startsWith("phi3") ? phi3 : llama;
      return [program.sites[site]!.name, offset, width, rank, scale];
    });
  const nameOf = (site: number): string => llama.sites[site]!.name;
  const qkv = (layer: number): string => `model.layers.${layer}.self_attn.qkv_proj`;

  test("attn_r8 changes q, k and v of both layers, scaled by 16/8", async () => {
    expect(await summary("attn_r8")).toEqual(
      [0, 1].flatMap((layer) => [
        [qkv(layer), 0, 32, 8, 2],
        [qkv(layer), 32, 16, 8, 2],
        [qkv(layer), 48, 16, 8, 2],
      ]),
    );
  });

  test("all_r4 changes seven modules a layer, and rsLoRA only changes their scale", async () => {
    const plain = await read("all_r4");
    const rslora = await read("rslora");
    expect(plain.deltas.length).toBe(14);
    expect(new Set(plain.deltas.map(({ scale }) => scale))).toEqual(new Set([8 / 4]));
    expect(new Set(rslora.deltas.map(({ scale }) => scale))).toEqual(new Set([8 / Math.sqrt(4)]));
    expect(rslora.report.scaleRule).toBe("alpha/sqrt(rank)");
  });

  test("patterns give single modules a rank and an alpha of their own", async () => {
    const of = new Map<string, [number, number]>();
    const { deltas } = await read("patterns");
    for (const delta of deltas) {
      const module = llama.sites[delta.site]!.modules.find(
        ({ own, offset, width }) => own && offset === delta.offset && width === delta.width,
      )!;
      of.set(module.path, [delta.rank, delta.scale]);
    }
    expect(of.get("model.layers.0.self_attn.q_proj")).toEqual([8, 32 / 8]);
    expect(of.get("model.layers.1.self_attn.q_proj")).toEqual([8, 32 / 8]);
    expect(of.get("model.layers.1.mlp.down_proj")).toEqual([2, 8 / 2]);
    expect(of.get("model.layers.0.mlp.down_proj")).toEqual([4, 2]);
    expect(of.get("model.layers.0.mlp.up_proj")).toEqual([4, 1 / 4]);
    expect(of.get("model.layers.1.mlp.up_proj")).toEqual([4, 2]);
  });

  test("a pattern, layers_to_transform and exclude_modules select modules", async () => {
    expect((await read("regex")).deltas.map(({ site, offset }) => [nameOf(site), offset])).toEqual([
      [qkv(1), 0],
      [qkv(1), 48],
    ]);
    expect((await read("layers")).deltas.map(({ site }) => nameOf(site))).toEqual([qkv(1)]);
    const excluded = (await read("exclude")).deltas.map(({ site, offset }) => [nameOf(site), offset]);
    expect(excluded.length).toBe(12);
    expect(excluded).not.toContainEqual(["model.layers.0.mlp.gate_up_proj", 48]);
  });

  test("what VeLoRA and MonteCLoRA keep for training is passed over", async () => {
    const trained = changedAdapter("all_r4", {
      config: (json) => Object.assign(json, { velora_config: { num_groups: 4 }, monteclora_config: { num_samples: 2 } }),
      tensors: (tensors) => {
        const [name, matrix] = [...tensors][0]!;
        for (const end of ["lora_velora_embed", "lora_monteclora_sampler.expert_weights_prior"]) tensors.set(name.replace(/lora_[AB]\.weight$/, end), matrix);
      },
    });
    expect((await readAdapter(trained, llama)).digest).toBe((await read("all_r4")).digest);
  });

  test("a pattern that a stacked name matches as well asks for nothing where the base's own is excluded", async () => {
    const change: AdapterChange = {
      config: (json) => Object.assign(json, { target_modules: ".*(v_proj|down_proj)", exclude_modules: ["v_proj"] }),
      tensors: (tensors) => {
        for (const name of [...tensors.keys()]) if (!name.includes("down_proj")) tensors.delete(name);
      },
    };
    expect((await readAdapter(changedAdapter("all_r4", change), llama)).report.modules.map(({ name }) => name)).toEqual(["down_proj"]);
  });

  test("a fused adapter on a fused base covers the whole output", async () => {
    const { deltas } = await read("phi3_fused");
    expect(deltas.length).toBe(8);
    for (const { site, offset, width } of deltas) {
      expect(offset).toBe(0);
      expect(width).toBe(phi3.sites[site]!.outWidth);
    }
  });
});

describe("fused and split spellings of one adapter", () => {
  const rename = (tensors: RawTensors, from: string, to: string): void => {
    for (const [name, tensor] of [...tensors]) {
      if (!name.includes(`.${from}.`)) continue;
      tensors.delete(name);
      tensors.set(name.replace(`.${from}.`, `.${to}.`), tensor);
    }
  };

  test("a fused qkv_proj adapter works on a base with split projections", async () => {
    const directory = changedAdapter("attn_r8", {
      config: (config) => (config["target_modules"] = ["qkv_proj"]),
      tensors: (tensors) => {
        for (const name of [...tensors.keys()]) if (/\.(k|v)_proj\./.test(name)) tensors.delete(name);
        rename(tensors, "q_proj", "qkv_proj");
        for (const [name, tensor] of tensors) {
          if (!name.endsWith("lora_B.weight")) continue;
          tensors.set(name, { ...tensor, shape: [64, 8], bytes: Buffer.concat([tensor.bytes, tensor.bytes]) });
        }
      },
    });
    const { deltas } = await readAdapter(directory, llama);
    expect(deltas.map(({ offset, width }) => [offset, width])).toEqual([[0, 64], [0, 64]]);
  });

  test("a split q_proj adapter works on a base with a fused projection", async () => {
    const directory = changedAdapter("attn_r8", { config: (config) => (config["target_modules"] = ["q_proj", "k_proj", "v_proj"]) });
    const { deltas } = await readAdapter(directory, phi3);
    expect(deltas.map(({ offset, width }) => [offset, width])).toEqual([[0, 32], [32, 16], [48, 16], [0, 32], [32, 16], [48, 16]]);
  });
});

describe("tensor names", () => {
  const renamed = (change: (name: string) => string) =>
    changedAdapter("attn_r8", {
      tensors: (tensors) => {
        for (const [name, tensor] of [...tensors]) {
          tensors.delete(name);
          tensors.set(change(name), tensor);
        }
      },
    });

  test.each([
    ["without a prefix", (name: string) => name.replace("base_model.model.", "")],
    ["with the adapter's name", (name: string) => name.replace(".weight", ".default.weight")],
    ["inside a vision model", (name: string) => name.replace("model.model.layers", "model.model.language_model.layers")],
  ])("are understood %s", async (_, change) => {
    const plain = await read("attn_r8");
    expect((await readAdapter(renamed(change), llama)).digest).toBe(plain.digest);
  });
});

describe("a bias behind B", () => {
  test("is read as float32, counted, and named as a form", async () => {
    const { deltas, forms, report } = await read("lora_bias");
    expect(forms).toEqual(["lora_bias"]);
    for (const { bias, width } of deltas) expect(bias!.length).toBe(width);
    const matrices = deltas.reduce((sum, { a, b }) => sum + a.bytes.length + b.bytes.length, 0);
    expect(report.numBytes).toBe(matrices + deltas.reduce((sum, { width }) => sum + 4 * width, 0));
    expect((await read("attn_r8")).forms).toEqual([]);
  });

  test("is part of the digest", async () => {
    const changed = changedAdapter("lora_bias", {
      tensors: (tensors) => {
        for (const [name, tensor] of tensors) if (name.endsWith("lora_B.bias")) tensor.bytes[0]! ^= 1;
      },
    });
    expect((await readAdapter(changed, llama)).digest).not.toBe((await read("lora_bias")).digest);
  });

  test("is refused by name for a backend that does not serve it", async () => {
    const biased = await read("lora_bias");
    expect(() => checkForms(biased, { name: "cuda" })).toThrow("the adapter uses lora_bias, which the cuda backend does not serve");
    expect(() => checkForms(biased, { name: "cuda", adapterForms: [] })).toThrow(AdapterError);
    expect(checkForms(biased, { name: "wasm", adapterForms: ["lora_bias"] })).toBe(biased);
    const plain = await read("attn_r8");
    expect(checkForms(plain, { name: "cuda" })).toBe(plain);
  });

  const change = (shape: number[], dtype = "F32", bytes: Uint8Array = new Uint8Array(4 * shape.reduce((a, b) => a * b, 1))) => (tensors: RawTensors) => {
    for (const name of tensors.keys()) if (name.endsWith("lora_B.bias")) tensors.set(name, { dtype, shape, bytes });
  };
  test.each<[string, AdapterChange, string]>([
    ["that is missing", { tensors: (tensors) => tensors.forEach((_, name) => name.endsWith("bias") && tensors.delete(name)) }, "has no lora_B.bias, though lora_bias is set"],
    ["that nothing announces", config("lora_bias", false), "has a lora_B.bias, though lora_bias is not set"],
    ["of another width", { tensors: change([5]) }, "has 5 numbers, but this base needs"],
    ["of two dimensions", { tensors: change([2, 2]) }, "must be a vector, got shape [2, 2]"],
    ["that is not finite", { tensors: change([32], "F32", floats(Array.from({ length: 32 }, (_, i) => (i === 4 ? Number.NaN : 0)))) }, "a value that is not finite at 4"],
  ])("%s is an error", async (_, how, message) => {
    expect(readAdapter(changedAdapter("lora_bias", how), llama)).rejects.toThrow(message);
  });

  test("in 16 bits is widened exactly", async () => {
    const widths = { q_proj: 32, v_proj: 16, k_proj: 16, o_proj: 32 } as Record<string, number>;
    const as = (dtype: "F16" | "BF16") => changedAdapter("lora_bias", {
      tensors: (tensors) => {
        for (const name of tensors.keys()) {
          if (!name.endsWith("lora_B.bias")) continue;
          const width = widths[name.split(".").at(-3)!]!;
          tensors.set(name, { dtype, shape: [width], bytes: new Uint8Array(new Uint16Array(width).fill(dtype === "F16" ? 0x3e00 : 0x3fc0).buffer) });
        }
      },
    });
    for (const dtype of ["F16", "BF16"] as const) {
      for (const { bias } of (await readAdapter(as(dtype), llama)).deltas) expect(new Set(bias)).toEqual(new Set([1.5]));
    }
  });
});

describe("DoRA", () => {
  const spelled = (change: (name: string) => string, shape = (width: number) => [width]): AdapterChange => ({
    tensors: (tensors) => {
      for (const [name, tensor] of [...tensors]) {
        if (!name.endsWith("lora_magnitude_vector")) continue;
        tensors.delete(name);
        tensors.set(change(name), { ...tensor, shape: shape(tensor.shape[0]!) });
      }
    },
  });

  test("has a magnitude for every output, which is part of the digest", async () => {
    const { deltas, forms, digest } = await read("dora");
    expect(forms).toEqual(["dora"]);
    for (const { magnitude, width } of deltas) expect(magnitude!.length).toBe(width);
    const changed = changedAdapter("dora", { tensors: (tensors) => tensors.forEach((tensor, name) => name.endsWith("vector") && (tensor.bytes[0]! ^= 1)) });
    expect((await readAdapter(changed, llama)).digest).not.toBe(digest);
  });

  test.each<[string, AdapterChange]>([
    ["with .weight", spelled((name) => `${name}.weight`)],
    ["with the adapter's name", spelled((name) => `${name}.default.weight`)],
    ["as a matrix of one row", spelled((name) => `${name}.weight`, (width) => [1, width])],
    ["as weight_m_wdecomp", spelled((name) => name.replace("lora_magnitude_vector", "weight_m_wdecomp.weight"), (width) => [width, 1])],
  ])("is read in older spellings: %s", async (_, change) => {
    expect((await readAdapter(changedAdapter("dora", change), llama)).digest).toBe((await read("dora")).digest);
  });

  test.each<[string, AdapterChange, string, string]>([
    ["without a magnitude", { tensors: (tensors) => tensors.delete([...tensors.keys()].find((name) => name.endsWith("vector"))!) }, "adapter_invalid", "has no lora_magnitude_vector, though use_dora is set"],
    ["with a bias behind B", config("lora_bias", true), "adapter_unsupported", "lora_bias is set together with use_dora"],
    ["of another width", { tensors: (tensors) => tensors.forEach((tensor, name) => name.endsWith("vector") && Object.assign(tensor, { shape: [8], bytes: tensor.bytes.slice(0, 32) })) }, "adapter_invalid", "has 8 numbers, but this base needs"],
  ])("%s is an error", async (_, change, code, message) => {
    expect(readAdapter(changedAdapter("dora", change), llama)).rejects.toMatchObject({ errorCode: code, message: expect.stringContaining(message) });
  });
});

describe("torch files", () => {
  test("are read where there is no safetensors file, and mean the same", async () => {
    const { deltas, report } = await read("bin_r4");
    expect(deltas.length).toBe(4);
    expect(report.warnings).toEqual([]);
  });

  test("in float64 are rounded to float32, which is told", async () => {
    const tensors = ["q_proj.lora_A", "q_proj.lora_B"].map((name, i) => ({
      name: `base_model.model.model.layers.0.self_attn.${name}.weight`, key: String(i), storage: "DoubleStorage", count: 64, shape: i === 0 ? [2, 32] : [32, 2],
    }));
    const doubles = new Uint8Array(new Float64Array(64).fill(1 / 3).buffer);
    const directory = changedAdapter("attn_r8", {
      config: (json) => Object.assign(json, { r: 2, target_modules: ["q_proj"], layers_to_transform: [0] }),
      files: { "adapter_model.safetensors": null, "adapter_model.bin": encodeTorch(pickledDict(tensors), { 0: doubles, 1: doubles }) },
    });
    const { deltas, report } = await readAdapter(directory, llama);
    expect(new Float32Array(deltas[0]!.a.bytes.slice().buffer)[0]).toBe(Math.fround(1 / 3));
    expect(report.warnings).toEqual(["adapter_model.bin has 2 tensors in float64, which were rounded to float32"]);
  });

  test.each([
    ["that want to run", readFileSync(fixtureAdapter("torch/evil.ckpt")), 'adapter_model.bin: the pickle asks for "__builtin__.print"'],
    ["of whole numbers", encodeTorch(pickledDict([{ name: "a", storage: "LongStorage", count: 1, shape: [1] }]), { 0: new Uint8Array(8) }), 'adapter_model.bin: tensor "a" has dtype I64'],
    ["that are text", new TextEncoder().encode("x"), "adapter_model.bin: the pickle"],
  ])("%s are refused", async (_, bytes, message) => {
    const directory = changedAdapter("attn_r8", { files: { "adapter_model.safetensors": null, "adapter_model.bin": bytes } });
    expect(readAdapter(directory, llama)).rejects.toMatchObject({ errorCode: "adapter_invalid", message: expect.stringContaining(message) });
  });
});

describe("an invocation", () => {
  const invoked = (tokens: unknown) => changedAdapter("all_r4", { config: (json) => void (json["alora_invocation_tokens"] = tokens) });

  test("is told by the report and is part of the digest, an empty one is none", async () => {
    const plain = await read("all_r4");
    const one = await readAdapter(invoked([5, 6]), llama);
    expect(one.report.invocation).toEqual([5, 6]);
    expect(describeReport(one.report)).toContainEqual(["acts", "from the last 5 6 of a prompt's token ids on, and not without"]);
    expect(one.forms).toEqual([]);
    expect(one.digest).not.toBe(plain.digest);
    expect((await readAdapter(invoked([56]), llama)).digest).not.toBe(one.digest);
    for (const none of [[], null]) expect(await readAdapter(invoked(none), llama)).toEqual(plain);
  });
});

describe("the digest", () => {
  test("does not depend on the order of tensors or the adapter's directory", async () => {
    const reversed = changedAdapter("all_r4", {
      tensors: (tensors) => {
        const entries = [...tensors].reverse();
        tensors.clear();
        for (const [name, tensor] of entries) tensors.set(name, tensor);
      },
    });
    expect((await readAdapter(reversed, llama)).digest).toBe((await read("all_r4")).digest);
  });

  test.each<[string, AdapterChange]>([
    ["one bit of one matrix", { tensors: (tensors) => (tensors.values().next().value!.bytes[0]! ^= 1) }],
    ["the scale", { config: (config) => (config["lora_alpha"] = 9) }],
    ["the rule of the scale", { config: (config) => (config["use_rslora"] = true) }],
  ])("changes with %s", async (_, change) => {
    expect((await readAdapter(changedAdapter("all_r4", change), llama)).digest).not.toBe((await read("all_r4")).digest);
  });
});

/** [what is wrong, the change, the code, a part of the message, limits] */
const BAD: readonly (readonly [string, AdapterChange, string, string, AdapterLimits?])[] = [
  ["no configuration", { files: { "adapter_config.json": null } }, "adapter_invalid", "no adapter_config.json"],
  ["no weights", { files: { "adapter_model.safetensors": null } }, "adapter_invalid", "no adapter_model.safetensors"],
  ["a NeMo archive that is none", { files: { "adapter_model.safetensors": null, "adapter_config.json": null, "x.nemo": "x" } }, "adapter_invalid", ".nemo archive: the tar archive ends"],
  ["configuration that is not JSON", { files: { "adapter_config.json": "{r: 8}" } }, "adapter_invalid", "adapter_config.json: "],
  ["configuration that is a list", { files: { "adapter_config.json": "[]" } }, "adapter_invalid", "must be an object"],
  ["a field given twice", { files: { "adapter_config.json": '{"peft_type":"LORA","r":4,"r":8}' } }, "adapter_invalid", "r"],
  ["configuration beyond its limit", { files: { "adapter_config.json": `{"x":"${"y".repeat(70_000)}"}` } }, "adapter_too_large", "at most 65536"],
  ["nesting without end", { files: { "adapter_config.json": `{"x":${"[".repeat(40)}${"]".repeat(40)}}` } }, "adapter_invalid", "adapter_config.json: "],
  ["no peft_type", { config: (json) => delete json["peft_type"] }, "adapter_invalid", "peft_type is missing"],
  ["another method", config("peft_type", "IA3"), "adapter_unsupported", '"IA3" is not served'],
  ["a rank of 0", config("r", 0), "adapter_invalid", "r must be a whole number from 1"],
  ["a rank as text", config("r", "8"), "adapter_invalid", 'got "8"'],
  ["a fractional rank", config("r", 4.5), "adapter_invalid", "got 4.5"],
  ["a negative alpha", config("lora_alpha", -1), "adapter_invalid", "lora_alpha must be a number above 0"],
  ["a rank that the tensors do not have", config("r", 16), "adapter_invalid", "has shape [8, 32], but this base and the configured rank 16 need [16, 32]"],
  ["an empty target list", config("target_modules", []), "adapter_invalid", "target_modules is empty"],
  ["no targets", config("target_modules", null), "adapter_invalid", "target_modules is missing"],
  ["a number among the targets", config("target_modules", ["q_proj", 3]), "adapter_invalid", "must hold non-empty strings, got 3"],
  ["targets that the base lacks", config("target_modules", ["c_attn"]), "adapter_invalid", "c_attn, which matches no module"],
  ["a pattern that cannot be read", config("target_modules", "(q_proj"), "adapter_invalid", 'target_modules has the pattern "(q_proj", which cannot be read'],
  ["a pattern with look-behind", config("target_modules", "(?<=x)q_proj"), "adapter_invalid", "without look-around"],
  ["everything excluded", config("exclude_modules", ["q_proj", "k_proj", "v_proj"]), "adapter_invalid", "matches no module"],
  ["layers beyond the model", config("layers_to_transform", [7]), "adapter_invalid", "matches no module"],
  ["a layer of -1", config("layers_to_transform", [-1]), "adapter_invalid", "layers_to_transform must be a whole number from 0"],
  ["a name of layers that cannot be read", { config: (json) => Object.assign(json, { layers_to_transform: 1, layers_pattern: "la(yers" }) }, "adapter_invalid", 'layers_pattern has the pattern "la(yers", which cannot be read'],
  ["layers beside a pattern", { config: (json) => Object.assign(json, { target_modules: ".*q_proj", layers_to_transform: 1 }) }, "adapter_invalid", "cannot be combined"],
  ["a rank pattern of text", config("rank_pattern", { q_proj: "8" }), "adapter_invalid", 'rank_pattern["q_proj"]'],
  ["a rank pattern that is a list", config("rank_pattern", ["q_proj"]), "adapter_invalid", "rank_pattern must be an object"],
  ["an unknown bias rule", config("bias", "some"), "adapter_invalid", 'bias must be "none"'],
  ["PiSSA that was not converted", config("init_lora_weights", "pissa_niter_4"), "adapter_unsupported", "changes the base weights"],
  ["OLoRA that was not converted", config("init_lora_weights", "olora"), "adapter_unsupported", "changes the base weights"],
  ["CorDA that was not converted", config("init_lora_weights", "corda"), "adapter_unsupported", "changes the base weights"],
  ["Arrow", config("arrow_config", { top_k: 2 }), "adapter_unsupported", "arrow_config is set"],
  ["block-diagonal LoRA", config("use_bdlora", true), "adapter_unsupported", "use_bdlora is set"],
  ["layers of Megatron's", config("megatron_config", { hidden_size: 16 }), "adapter_unsupported", "megatron_config is set"],
  ["an invocation that is no list", config("alora_invocation_tokens", "5 6"), "adapter_invalid", "alora_invocation_tokens must be a list of token ids, got a string"],
  ["an invocation of words", config("alora_invocation_tokens", [5, "six"]), "adapter_invalid", "alora_invocation_tokens must be a whole number"],
  ["an invocation below 0", config("alora_invocation_tokens", [-1]), "adapter_invalid", "alora_invocation_tokens must be a whole number"],
  ["an invocation outside the vocabulary", config("alora_invocation_tokens", [5, 100_000]), "adapter_invalid", "alora_invocation_tokens has the token id 100000, but this base's ids end at"],
  ["an endless invocation", config("alora_invocation_tokens", Array.from({ length: 1025 }, () => 5)), "adapter_invalid", "alora_invocation_tokens has 1025 entries; at most 1024"],
  ["activated LoRA with DoRA", { config: (json) => Object.assign(json, { alora_invocation_tokens: [5], use_dora: true }) }, "adapter_unsupported", "alora_invocation_tokens is set together with use_dora"],
  ["activated LoRA with expert parameters", { config: (json) => Object.assign(json, { alora_invocation_tokens: [5], target_parameters: ["w1"] }) }, "adapter_unsupported", "alora_invocation_tokens is set together with target_parameters"],
  ["repeated layers", config("layer_replication", [[0, 2]]), "adapter_unsupported", "layer_replication is set"],
  ["QA-LoRA", config("use_qalora", true), "adapter_unsupported", "use_qalora is set"],
  ["a rank above the server's", {}, "adapter_too_large", "has rank 8, above the limit of 4; raise max_lora_rank", { maxRank: 4 }],
  ["NaN", { tensors: poison(A0, Number.NaN) }, "adapter_invalid", "not finite at row 0, column 3"],
  ["infinity", { tensors: poison(B0, Number.POSITIVE_INFINITY) }, "adapter_invalid", "not finite"],
  ["A without B", { tensors: (tensors) => tensors.delete(B0) }, "adapter_invalid", "q_proj has no lora_B.weight"],
  ["B without A", { tensors: (tensors) => tensors.delete(A0) }, "adapter_invalid", "q_proj has no lora_A.weight"],
  ["a module that is missing", { tensors: (tensors) => (tensors.delete(A0), tensors.delete(B0)) }, "adapter_invalid", "the file has no tensors for it"],
  ["a module that nothing targets", config("target_modules", ["k_proj", "v_proj"]), "adapter_invalid", "does not name"],
  ["an unknown module", { tensors: (tensors) => tensors.set(A0.replace("q_proj", "z_proj"), tensors.get(A0)!) }, "adapter_invalid", "z_proj"],
  ["a layer that the base lacks", { tensors: (tensors) => tensors.set(A0.replace("layers.0", "layers.9"), tensors.get(A0)!) }, "adapter_invalid", "which the base model does not have"],
  ["one matrix under two names", { tensors: (tensors) => tensors.set(A0.replace("base_model.model.", ""), tensors.get(A0)!) }, "adapter_invalid", "is there twice"],
  ["a tensor that means nothing", { tensors: (tensors) => tensors.set("step", { dtype: "F32", shape: [1], bytes: new Uint8Array(4) }) }, "adapter_invalid", '"step" is not a LoRA matrix'],
  ["a DoRA magnitude that nothing announces", { tensors: (tensors) => tensors.set(A0.replace("lora_A.weight", "lora_magnitude_vector"), { dtype: "F32", shape: [32], bytes: new Uint8Array(128) }) }, "adapter_invalid", "has a lora_magnitude_vector, though use_dora is not set"],
  ["a replaced head", { tensors: (tensors) => tensors.set("base_model.model.lm_head.weight", { dtype: "F32", shape: [1, 1], bytes: new Uint8Array(4) }) }, "adapter_invalid", "has shape [1, 1], but module lm_head of this base needs [97, 32]"],
  ["three dimensions", { tensors: (tensors) => (tensors.get(A0)!.shape = [8, 8, 4]) }, "adapter_invalid", "must be a matrix, got shape [8, 8, 4]"],
  ["a transposed matrix", { tensors: (tensors) => (tensors.get(A0)!.shape = [32, 8]) }, "adapter_invalid", "has rank 32 in lora_A, but 8 in lora_B"],
  ["an adapter for a wider base", { tensors: (tensors) => Object.assign(tensors.get(A0)!, { shape: [8, 64], bytes: new Uint8Array(8 * 64 * 4) }) }, "adapter_invalid", "has shape [8, 64]"],
  ["whole numbers", { tensors: (tensors) => (tensors.get(A0)!.dtype = "I32") }, "adapter_invalid", "I32"],
  ["no tensors at all", { tensors: (tensors) => tensors.clear() }, "adapter_invalid", "holds no tensors"],
  ["a file of 3 bytes", { files: { "adapter_model.safetensors": new Uint8Array(3) } }, "adapter_invalid", "adapter_model.safetensors: "],
  ["a header longer than the file", { files: { "adapter_model.safetensors": new Uint8Array([255, 255, 0, 0, 0, 0, 0, 0, 1]) } }, "adapter_invalid", "adapter_model.safetensors: "],
  ["offsets outside the file", { files: { "adapter_model.safetensors": rawHeader('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', 8) } }, "adapter_invalid", "adapter_model.safetensors: "],
  ["overlapping tensors", { files: { "adapter_model.safetensors": rawHeader('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', 12) } }, "adapter_invalid", "adapter_model.safetensors: "],
  ["a shape that overflows", { files: { "adapter_model.safetensors": rawHeader('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}', 8) } }, "adapter_invalid", "adapter_model.safetensors: "],
];

describe("bad adapters", () => {
  test.each(BAD.map((one) => [one[0], one] as const))("%s: one clear error", async (_, [, change, code, message, limits]) => {
    const directory = changedAdapter("attn_r8", change);
    const error = await readAdapter(directory, llama, limits).then(
      () => null,
      (thrown: LorikeetError) => thrown,
    );
    expect(error).toMatchObject({ errorCode: code });
    expect(error!.message).toContain(message);
    expect(error!.message).not.toContain(directory);
  });

  test("a path that is missing or a file is told apart", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lorikeet-adapter-"));
    writeFileSync(join(directory, "file"), "");
    expect(readAdapter(join(directory, "none"), llama)).rejects.toThrow("does not exist");
    expect(readAdapter(join(directory, "file"), llama)).rejects.toThrow("is not a directory");
  });

  test("an empty list or text means no choice, as PEFT reads it", async () => {
    const directory = changedAdapter("attn_r8", {
      config: (json) => Object.assign(json, { layers_to_transform: [], layers_pattern: "", exclude_modules: "" }),
    });
    expect((await readAdapter(directory, llama)).digest).toBe((await read("attn_r8")).digest);
  });

  test("unknown fields are told in the report", async () => {
    const directory = changedAdapter("attn_r8", config("new_trick", 3));
    expect((await readAdapter(directory, llama)).report.warnings).toEqual([
      'adapter_config.json has the unknown field "new_trick", which was ignored',
    ]);
  });
});
