import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { LorikeetError } from "../../src/core/errors.ts";
import { type ReadOptions, readAdapter } from "../../src/lora/read-adapter.ts";
import { targetModules } from "../../src/lora/target-modules.ts";
import { encodeTar, encodeTorch, pickledDict } from "../helpers/archives.ts";
import { fixtureAdapter, fixtureProgram } from "../helpers/adapter-files.ts";

const llama = fixtureProgram("base_llama");
const H = 32;
const F = 48;
const R = 2;
const QKV = 64;

interface Matrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: readonly number[];
}
/** Every element tells its row and column: `100 * row + column + seed`. */
const matrix = (rows: number, cols: number, seed = 0): Matrix => ({
  rows, cols, values: Array.from({ length: rows * cols }, (_, i) => 100 * Math.floor(i / cols) + (i % cols) + seed),
});
const rowsOf = ({ cols, values }: Matrix): number[][] => Array.from({ length: values.length / cols }, (_, row) => values.slice(row * cols, (row + 1) * cols));
const stack = (...parts: readonly (readonly number[][])[]): Matrix => {
  const rows = parts.flat();
  return { rows: rows.length, cols: rows[0]!.length, values: rows.flat() };
};

type Tensors = Readonly<Record<string, Matrix>>;

function checkpoint(tensors: Tensors): Uint8Array {
  const entries = Object.entries(tensors);
  return encodeTorch(
    pickledDict(entries.map(([name, { rows, cols }], i) => ({ name, key: String(i), count: rows * cols, shape: [rows, cols] }))),
    Object.fromEntries(entries.map(([, { values }], i) => [String(i), new Uint8Array(Float32Array.from(values).buffer)])),
  );
}

const base = { hidden_size: H, num_attention_heads: 4, num_query_groups: 2, kv_channels: 8, num_layers: 2, tensor_model_parallel_size: 1, pipeline_model_parallel_size: 1 };
const config = (targets: string[], change: object = {}, tuning: object = {}): object => ({
  ...base, peft: { peft_scheme: "lora", lora_tuning: { target_modules: targets, adapter_dim: R, alpha: 8, ...tuning } }, ...change,
});

interface Archive {
  readonly config: object | string | null;
  /** By member name; one is `model_weights.ckpt`. */
  readonly weights: Readonly<Record<string, Tensors | Uint8Array>>;
  readonly gzip?: boolean;
}

function writeArchive({ config: yaml, weights, gzip = false }: Archive, name = "a.nemo"): string {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-nemo-"));
  const members = [
    ...(yaml === null ? [] : [{ name: "./model_config.yaml", bytes: new TextEncoder().encode(typeof yaml === "string" ? yaml : JSON.stringify(yaml)) }]),
    ...Object.entries(weights).map(([member, tensors]) => ({ name: `./${member}`, bytes: tensors instanceof Uint8Array ? tensors : checkpoint(tensors) })),
  ];
  const tar = encodeTar(members);
  const path = join(directory, name);
  writeFileSync(path, gzip ? gzipSync(tar) : tar);
  return path;
}

const key = (layer: number, adapter: string, matrix: "in" | "out"): string => `model.decoder.layers.${layer}.${adapter}.linear_${matrix}.weight`;
const pair = (adapter: string, a: Matrix, b: Matrix, layers: readonly number[] = [0, 1]): Tensors =>
  Object.fromEntries(layers.flatMap((layer) => [[key(layer, adapter, "in"), a], [key(layer, adapter, "out"), b]]));
const KQV = "self_attention.adapter_layer.lora_kqv_adapter";
const FC1 = "mlp.adapter_layer.lora_hto4h_adapter";
const qkvPair = pair(KQV, matrix(R, H), matrix(QKV, R));
const floats = (bytes: Uint8Array): number[] => [...new Float32Array(bytes.slice().buffer)];

const read = async (archive: Archive, options: ReadOptions = {}) =>
  (await readAdapter(writeArchive(archive), llama, options)).deltas.map(({ site, offset, width, rank, scale, a, b }) => ({
    name: llama.sites[site]!.name, offset, width, rank, scale, a: floats(a.bytes), b: floats(b.bytes),
  }));
const one = (targets: string[], tensors: Tensors, change: object = {}, tuning: object = {}): Archive => ({ config: config(targets, change, tuning), weights: { "model_weights.ckpt": tensors } });

/** Rows of B by head: four queries, two keys, two values, of eight rows each. */
const heads = (b: Matrix) => (index: number): number[][] => rowsOf(b).slice(index * 8, index * 8 + 8);

describe("fused query, key and value rows", () => {
  const b = matrix(QKV, R);
  const at = heads(b);
  // Group 0 is q0 q1 k0 v0, group 1 is q2 q3 k1 v1.
  const fromMegatron = stack(at(0), at(1), at(4), at(5), at(2), at(6), at(3), at(7)).values;

  test("come by head group where the archive has Megatron's configuration, and are put in order", async () => {
    const [first] = await read(one(["attention_qkv"], qkvPair));
    expect(first).toMatchObject({ offset: 0, width: QKV, rank: R, scale: 4, b: fromMegatron });
  });

  test("come in order, and unscaled, where it has not", async () => {
    const mock = { precision: "fp16", model: { hidden_size: H, num_layers: 2, num_attention_heads: 4, num_query_groups: 2 }, lora: { rank: R, target_modules: ["attn_qkv"] } };
    const [first] = await read({ config: mock, weights: { "model_weights.ckpt": qkvPair } });
    expect(first).toMatchObject({ scale: 1, b: b.values });
  });

  test("are as the caller says where he says it", async () => {
    const archive = one(["attention_qkv"], qkvPair);
    expect((await read(archive, { nemoQkvLayout: "sequential" }))[0]).toMatchObject({ scale: 4, b: b.values });
    expect((await read(archive, { nemoQkvLayout: "megatron" }))[0]).toMatchObject({ b: fromMegatron });
  });

  test("without alpha are not scaled", async () => {
    expect((await read(one(["attention_qkv"], qkvPair, {}, { alpha: null })))[0]!.scale).toBe(1);
  });
});

describe("every adapter", () => {
  const kv = matrix(32, R);
  const at = (index: number): number[][] => rowsOf(kv).slice(index * 8, index * 8 + 8);
  const UNFUSED = "self_attention.adapter_layer.lora_unfused_kqv_adapter";
  test.each<[string, string[], Tensors, [name: string, offset: number, width: number][]]>([
    ["dense attention", ["attention_dense"], pair("self_attention.adapter_layer.lora_dense_attention_adapter", matrix(R, H), matrix(H, R)), [["o_proj", 0, H]]],
    ["unfused projections", ["attention_qkv"], { ...pair(`${UNFUSED}.q_adapter`, matrix(R, H), matrix(32, R)), ...pair(`${UNFUSED}.k_adapter`, matrix(R, H), matrix(16, R)), ...pair(`${UNFUSED}.v_adapter`, matrix(R, H), matrix(16, R)) }, [["qkv_proj", 0, 32], ["qkv_proj", 32, 16], ["qkv_proj", 48, 16]]],
    ["a fused key and value", ["attention_qkv"], { ...pair("self_attention.adapter_layer.lora_q_adapter", matrix(R, H), matrix(32, R)), ...pair("self_attention.adapter_layer.lora_kv_adapter", matrix(R, H), kv) }, [["qkv_proj", 0, 32], ["qkv_proj", 32, 16], ["qkv_proj", 48, 16]]],
    ["fused gate and up", ["mlp_fc1"], pair(FC1, matrix(R, H), matrix(2 * F, R)), [["gate_up_proj", 0, 2 * F]]],
    ["unfused gate and up", ["mlp_fc1"], { ...pair("mlp.adapter_layer.lora_unfused_hto4h_adapter.gate_adapter", matrix(R, H), matrix(F, R)), ...pair("mlp.adapter_layer.lora_unfused_hto4h_adapter.up_adapter", matrix(R, H), matrix(F, R)) }, [["gate_up_proj", 0, F], ["gate_up_proj", F, F]]],
    ["down", ["mlp_fc2"], pair("mlp.adapter_layer.lora_4htoh_adapter", matrix(R, F), matrix(H, R)), [["down_proj", 0, H]]],
  ])("%s", async (_, targets, tensors, places) => {
    const deltas = await read(one(targets, tensors));
    expect(deltas.length).toBe(2 * places.length);
    expect(deltas.slice(0, places.length).map(({ name, offset, width }) => [name.split(".").at(-1), offset, width])).toEqual(places);
  });

  test("a fused key and value matrix is divided by group", async () => {
    const deltas = await read(one(["attention_qkv"], { ...pair("self_attention.adapter_layer.lora_q_adapter", matrix(R, H), matrix(32, R)), ...pair("self_attention.adapter_layer.lora_kv_adapter", matrix(R, H), kv) }));
    expect(deltas[1]!.b).toEqual(stack(at(0), at(2)).values as number[]);
    expect(deltas[2]!.b).toEqual(stack(at(1), at(3)).values as number[]);
  });

  test.each(["model.", "model.module.decoder.", "model.language_model.encoder.", "", "decoder."])("under the prefix %j", async (prefix) => {
    const tensors = Object.fromEntries(Object.entries(qkvPair).map(([name, value]) => [name.replace("model.decoder.", prefix), value]));
    expect((await read(one(["attention_qkv"], tensors))).length).toBe(2);
  });

  test("of chosen layers, which NeMo counts from 1", async () => {
    const [only, ...others] = await read(one(["attention_qkv"], pair(KQV, matrix(R, H), matrix(QKV, R), [1]), {}, { layer_selection: [2] }));
    expect(only!.name).toContain("layers.1");
    expect(others).toEqual([]);
  });
});

describe("ranks", () => {
  const whole = { a: matrix(R, H), b: matrix(QKV, R) };
  const half = (value: Matrix, index: number): Matrix => stack(rowsOf(value).slice((index * value.rows) / 2, ((index + 1) * value.rows) / 2));
  const tensorParallel = { tensor_model_parallel_size: 2 };

  test("of a fused projection are stacked, whole groups each", async () => {
    const archive: Archive = { config: config(["attention_qkv"], tensorParallel), weights: Object.fromEntries([0, 1].map((rank) => [`mp_rank_0${rank}/model_weights.ckpt`, pair(KQV, half(whole.a, rank), half(whole.b, rank))])) };
    const merged = await read(archive);
    expect(merged).toEqual(await read(one(["attention_qkv"], pair(KQV, whole.a, whole.b))));
  });

  test("of gate and up are divided before they are stacked", async () => {
    const gate = matrix(F, R);
    const up = matrix(F, R, 0.5);
    const archive: Archive = { config: config(["mlp_fc1"], tensorParallel), weights: Object.fromEntries([0, 1].map((rank) => [`mp_rank_0${rank}/model_weights.ckpt`, pair(FC1, half(whole.a, rank), stack(rowsOf(half(gate, rank)), rowsOf(half(up, rank))))])) };
    expect((await read(archive))[0]).toMatchObject({ a: [...whole.a.values], b: [...gate.values, ...up.values] });
  });

  test("of a row-parallel module divide the columns of A", async () => {
    const a = matrix(R, F);
    const b = matrix(H, R);
    const left = stack(rowsOf(a).map((row) => row.slice(0, F / 2)));
    const right = stack(rowsOf(a).map((row) => row.slice(F / 2)));
    const down = "mlp.adapter_layer.lora_4htoh_adapter";
    const archive: Archive = { config: config(["mlp_fc2"], tensorParallel), weights: { "mp_rank_00/model_weights.ckpt": pair(down, left, half(b, 0)), "mp_rank_01/model_weights.ckpt": pair(down, right, half(b, 1)) } };
    expect((await read(archive))[0]).toMatchObject({ a: [...a.values], b: [...b.values] });
  });

  test("of a pipeline hold layers one after the other", async () => {
    const archive: Archive = {
      config: config(["attention_qkv"], { pipeline_model_parallel_size: 2 }),
      weights: { "tp_rank_00_pp_rank_000/model_weights.ckpt": pair(KQV, matrix(R, H, 1), whole.b, [0]), "tp_rank_00_pp_rank_001/model_weights.ckpt": pair(KQV, matrix(R, H, 2), whole.b, [0]) },
    };
    expect((await read(archive)).map(({ a }) => a[0])).toEqual([1, 2]);
  });
});

describe("where archives lie", () => {
  const archive = writeArchive(one(["attention_qkv"], qkvPair));
  const directory = join(archive, "..");

  test("a file, its directory, and a gzip stream are one adapter", async () => {
    const { digest, report } = await readAdapter(archive, llama);
    expect(report).toMatchObject({ format: "nemo", numModules: 2, maxRank: R, scaleRule: "alpha/rank" });
    expect((await readAdapter(directory, llama, { source: "nemo" })).digest).toBe(digest);
    expect((await readAdapter(writeArchive({ ...one(["attention_qkv"], qkvPair), gzip: true }), llama)).digest).toBe(digest);
  });

  test("lora_target_modules and max_lora_rank hold for them", async () => {
    expect(readAdapter(archive, llama, { targetModules: targetModules(["attn_q"]) })).rejects.toThrow("which lora_target_modules leaves out");
    expect(readAdapter(archive, llama, { maxRank: 1 })).rejects.toThrow("has rank 2, above the limit of 1; raise max_lora_rank");
  });

  test.each(["trtllm_mock", "megatron_alpha", "megatron_gz", "legacy_pickle", "all_modules", "tp2"])("the fixture %s is read from its file", async (name) => {
    const { deltas } = await readAdapter(fixtureAdapter(`nemo/${name}.nemo`), llama, { source: "nemo" });
    expect(deltas.length).toBe(name === "all_modules" ? 8 : 2);
  });

  const folder = (files: Readonly<Record<string, string | null>>): string => {
    const path = mkdtempSync(join(tmpdir(), "lorikeet-nemo-"));
    for (const [name, content] of Object.entries(files)) {
      if (content === null) mkdirSync(join(path, name));
      else writeFileSync(join(path, name), content);
    }
    return path;
  };

  test.each([
    ["several archives", folder({ "a.nemo": "", "b.nemo": "" }), "holds 2 .nemo archives; name one of them"],
    ["a NeMo 2 checkpoint", folder({ context: null, weights: null }), 'export it with llm.export_ckpt(target="hf-peft")'],
    ["a NeMo 2 adapter", folder({ "adapter_metadata.json": "{}" }), 'export it with llm.export_ckpt(target="hf-peft")'],
    ["a PEFT adapter", fixtureAdapter("attn_r8"), "attn_r8 is a directory of a PEFT adapter; leave lora_ckpt_source out"],
    ["nothing of the kind", folder({ "x.txt": "" }), "without a .nemo archive"],
  ])("lora_ckpt_source nemo and %s: one clear error", async (_, path, message) => {
    expect(readAdapter(path, llama, { source: "nemo" })).rejects.toThrow(message);
  });
});

describe("bad archives", () => {
  const good = one(["attention_qkv"], qkvPair);
  const weights = (tensors: Tensors): Archive => ({ ...good, weights: { "model_weights.ckpt": tensors } });
  const without = (name: string): Tensors => Object.fromEntries(Object.entries(qkvPair).filter(([key]) => key !== name));
  const yaml = (change: object, tuning: object = {}): Archive => ({ ...good, config: config(["attention_qkv"], change, tuning) });
  const nan: Matrix = { ...matrix(R, H), values: matrix(R, H).values.map((value, i) => (i === 5 ? Number.NaN : value)) };

  const cases: readonly (readonly [string, Archive, string, string])[] = [
    ["no configuration", { ...good, config: null }, "adapter_invalid", "has no model_config.yaml"],
    ["no weights", { ...good, weights: {} }, "adapter_invalid", "has no model_weights.ckpt"],
    ["configuration that is no YAML", { ...good, config: "a: [" }, "adapter_invalid", "model_config.yaml: the YAML text"],
    ["configuration that is a list", { ...good, config: "- 1" }, "adapter_invalid", "must be a map"],
    ["configuration of 300 kB", { ...good, config: `a: ${"b".repeat(300_000)}` }, "adapter_invalid", "more than the 262144 allowed"],
    ["weights elsewhere", { ...good, weights: { "other/model_weights.ckpt": qkvPair } }, "adapter_invalid", 'has the weights "other/model_weights.ckpt"'],
    ["weights that are no torch file", { ...good, weights: { "model_weights.ckpt": new TextEncoder().encode("x") } }, "adapter_invalid", "model_weights.ckpt: the pickle"],
    ["weights that want to run", { ...good, weights: { "model_weights.ckpt": new Uint8Array(readFileSync(fixtureAdapter("torch/evil.ckpt"))) } }, "adapter_invalid", '"__builtin__.print"'],
    ["a rank too few", yaml({ tensor_model_parallel_size: 2 }), "adapter_invalid", "weights of 1 ranks, but model_config.yaml says 2"],
    ["a pipeline that does not divide the layers", { ...yaml({ pipeline_model_parallel_size: 3 }), weights: Object.fromEntries([0, 1, 2].map((p) => [`tp_rank_00_pp_rank_00${p}/model_weights.ckpt`, qkvPair])) }, "adapter_invalid", "does not divide"],
    ["a million ranks", yaml({ tensor_model_parallel_size: 1_000_000 }), "adapter_invalid", "at most 1024 parts"],
    ["another base's width", yaml({ hidden_size: 64 }), "adapter_invalid", "hidden_size is 64, but the base model has 32"],
    ["another base's heads", yaml({ num_query_groups: null }), "adapter_invalid", "num_query_groups is 4, but the base model has 2"],
    ["a head count of text", yaml({ num_attention_heads: "4" }), "adapter_invalid", 'must be a whole number from 1 up, got "4"'],
    ["another method", yaml({ peft: { peft_scheme: "ptuning" } }), "adapter_unsupported", 'peft.peft_scheme is "ptuning"'],
    ["tied layers", yaml({}, { weight_tying: true }), "adapter_unsupported", "weight_tying"],
    ["a negative alpha", yaml({}, { alpha: -1 }), "adapter_invalid", "alpha must be a number above 0"],
    ["a rank that the tensors do not have", yaml({}, { adapter_dim: 4 }), "adapter_invalid", "has shape [2, 32], but this base and rank 4 need [4, 32]"],
    ["an unknown target", { ...good, config: config(["q_proj"]) }, "adapter_invalid", 'target_modules has "q_proj"'],
    ["layers from 0", yaml({}, { layer_selection: [0] }), "adapter_invalid", "must hold layers from 1 to 2, got 0"],
    ["a target without tensors", { ...good, config: config(["attention_qkv", "mlp_fc2"]) }, "adapter_invalid", "layer 0 has no whole adapter for mlp_fc2"],
    ["tensors without a target", { ...good, config: config(["mlp_fc2"]) }, "adapter_invalid", "is for attention_qkv, which target_modules"],
    ["a layer without tensors", weights(pair(KQV, matrix(R, H), matrix(QKV, R), [0])), "adapter_invalid", "layer 1 has no whole adapter"],
    ["a layer that the base lacks", weights({ ...qkvPair, ...pair(KQV, matrix(R, H), matrix(QKV, R), [7]) }), "adapter_invalid", "is for layer 7, but the base model has 2 layers"],
    ["A without B", weights(without(key(0, KQV, "out"))), "adapter_invalid", "has no linear_out.weight"],
    ["B without A", weights(without(key(1, KQV, "in"))), "adapter_invalid", "has no linear_in.weight"],
    ["one matrix under two names", weights({ ...qkvPair, [key(0, KQV, "in").replace("model.decoder", "model")]: matrix(R, H) }), "adapter_invalid", "is there twice"],
    ["an unknown name", weights({ ...qkvPair, "model.decoder.layers.0.x": matrix(1, 1) }), "adapter_invalid", "is not a LoRA matrix of NeMo"],
    ["experts", weights({ ...qkvPair, [key(0, "mlp.adapter_layer.lora_moe_hto4h_adapter.0", "in")]: matrix(R, H) }), "adapter_unsupported", "adapts an expert"],
    ["cross attention", weights({ ...qkvPair, [key(0, "inter_attention.adapter_layer.lora_q_adapter", "in")]: matrix(R, H) }), "adapter_unsupported", "cross attention"],
    ["rows that are no heads", weights(pair(KQV, matrix(R, H), matrix(40, R))), "adapter_invalid", "has 40 rows, which cannot be divided"],
    ["NaN", weights(pair(KQV, nan, matrix(QKV, R))), "adapter_invalid", "not finite at row 0, column 5"],
  ];

  test.each(cases)("%s: one clear error", async (_, archive, code, message) => {
    const path = writeArchive(archive);
    const error = await readAdapter(path, llama).then(
      () => null,
      (thrown: LorikeetError) => thrown,
    );
    expect(error).toMatchObject({ errorCode: code });
    expect(error!.message).toContain(message);
    expect(error!.message).not.toContain(path);
  });

  test("ranks that do not fit together are told", async () => {
    const archive: Archive = {
      config: config(["attention_qkv"], { tensor_model_parallel_size: 2 }),
      weights: { "mp_rank_00/model_weights.ckpt": pair(KQV, matrix(1, H), matrix(32, R)), "mp_rank_01/model_weights.ckpt": pair(KQV, matrix(1, 16), matrix(32, R)) },
    };
    expect(readAdapter(writeArchive(archive), llama)).rejects.toThrow("do not fit together: F32 [1, 32], F32 [1, 16]");
  });
});
