/** Small decoder programs of any shape with random weights in memory, for tests of backends. */
import type { AdapterForm, AdapterMatrix, AdapterWeights, LoraDelta, Replacement } from "../../src/lora/adapter-weights.ts";
import type { LoraSite, Operation, Program, WeightSpec } from "../../src/model/program.ts";
import type { TensorInfo, WeightSource } from "../../src/model/weight-source.ts";

export interface TinyShape {
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffn: number;
  readonly vocab: number;
  readonly tied?: boolean;
  readonly bias?: boolean;
  readonly qkNorm?: boolean;
  readonly window?: number | null;
  readonly rotaryDim?: number;
  readonly maxContext?: number;
}

export const TINY: TinyShape = { hidden: 24, layers: 2, heads: 6, kvHeads: 2, headDim: 8, ffn: 40, vocab: 61 };

/** Seeded numbers in [-1, 1). Source: mulberry32. */
export function numbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2147483648 - 1;
  };
}

export function tinyProgram(shape: TinyShape): Program {
  const { hidden, layers, heads, kvHeads, headDim, ffn, vocab } = shape;
  const qkv = (heads + 2 * kvHeads) * headDim;
  const q = heads * headDim;
  const kv = kvHeads * headDim;
  const weights: WeightSpec[] = [];
  const weight = (name: string, rows: number, cols: number, kind: "matrix" | "vector" = "matrix"): number =>
    weights.push({ name, kind, rows, cols, parts: [{ tensor: name, rows }] }) - 1;
  const vector = (name: string, width: number): number => weight(name, width, 1, "vector");
  const sites: LoraSite[] = [];
  const operations: Operation[] = [];
  const B = { residual: 0, normed: 1, qkv: 2, attended: 3, gateUp: 4, activated: 5, last: 6, lastNormed: 7, logits: 8 };
  const embed = weight("embed", vocab, hidden);
  const edge = (kind: "embedding" | "head" | "norm", path: string, layer: number, inWidth: number, outWidth: number): number =>
    sites.push({ name: path, layer, kind, inWidth, outWidth, modules: [{ path, offset: 0, width: outWidth, own: true }] }) - 1;
  const norm = (name: string, layer: number, width: number) => ({ weight: vector(name, width), site: edge("norm", name, layer, width, width) });
  operations.push({ kind: "embed", weight: embed, out: B.residual, site: edge("embedding", "embed", -1, vocab, hidden) });
  const linear = (
    layer: number,
    name: string,
    x: number,
    out: number,
    inWidth: number,
    outWidth: number,
    accumulate: boolean,
    slices: readonly (readonly [string, number, number])[],
  ): void => {
    const path = `layers.${layer}.${name}`;
    const bias = shape.bias === true ? vector(`${path}.bias`, outWidth) : null;
    sites.push({
      name: path,
      layer,
      inWidth,
      outWidth,
      modules: slices.map(([module, offset, width]) => ({ path: `layers.${layer}.${module}`, offset, width, own: true })),
    });
    operations.push({
      kind: "linear",
      x,
      weight: weight(path, outWidth, inWidth),
      bias,
      out,
      accumulate,
      site: sites.length - 1,
    });
  };
  for (let layer = 0; layer < layers; layer++) {
    operations.push({ kind: "rmsNorm", x: B.residual, ...norm(`norm1.${layer}`, layer, hidden), eps: 1e-5, out: B.normed });
    linear(layer, "qkv", B.normed, B.qkv, hidden, qkv, false, [["q", 0, q], ["k", q, kv], ["v", q + kv, kv]]);
    if (shape.qkNorm === true) {
      operations.push({ kind: "headNorm", x: B.qkv, offset: 0, numHeads: heads, ...norm(`qnorm.${layer}`, layer, headDim), eps: 1e-6 });
      operations.push({ kind: "headNorm", x: B.qkv, offset: q, numHeads: kvHeads, ...norm(`knorm.${layer}`, layer, headDim), eps: 1e-6 });
    }
    operations.push({ kind: "ropeKvWrite", qkv: B.qkv, layer });
    operations.push({ kind: "attention", qkv: B.qkv, out: B.attended, layer, window: shape.window ?? null });
    linear(layer, "o", B.attended, B.residual, q, hidden, true, [["o", 0, hidden]]);
    operations.push({ kind: "rmsNorm", x: B.residual, ...norm(`norm2.${layer}`, layer, hidden), eps: 1e-5, out: B.normed });
    linear(layer, "gateUp", B.normed, B.gateUp, hidden, 2 * ffn, false, [["gate", 0, ffn], ["up", ffn, ffn]]);
    operations.push({ kind: "siluMul", x: B.gateUp, out: B.activated });
    linear(layer, "down", B.activated, B.residual, ffn, hidden, true, [["down", 0, hidden]]);
  }
  operations.push({ kind: "gather", x: B.residual, out: B.last });
  operations.push({ kind: "rmsNorm", x: B.last, ...norm("norm", -1, hidden), eps: 1e-5, out: B.lastNormed });
  const head = shape.tied === true ? embed : weight("head", vocab, hidden);
  operations.push({ kind: "linear", x: B.lastNormed, weight: head, bias: null, out: B.logits, accumulate: false, site: edge("head", "head", -1, hidden, vocab) });
  operations.push({ kind: "sample", logits: B.logits });
  const rotaryDim = shape.rotaryDim ?? headDim;
  const step = (name: string, width: number) => ({ name, width, rows: "step" as const });
  const sampled = (name: string, width: number) => ({ name, width, rows: "sampled" as const });
  return {
    numLayers: layers,
    hiddenSize: hidden,
    vocabSize: vocab,
    maxContext: shape.maxContext ?? 256,
    attention: { numHeads: heads, numKvHeads: kvHeads, headDim, scale: 1 / Math.sqrt(headDim) },
    rope: {
      rotaryDim,
      inverseFrequencies: Array.from({ length: rotaryDim / 2 }, (_, i) => 10000 ** ((-2 * i) / rotaryDim)),
      attentionScaling: 1,
    },
    buffers: [
      step("residual", hidden),
      step("normed", hidden),
      step("qkv", qkv),
      step("attended", q),
      step("gateUp", 2 * ffn),
      step("activated", ffn),
      sampled("last", hidden),
      sampled("lastNormed", hidden),
      sampled("logits", vocab),
    ],
    weights,
    sites,
    operations,
  };
}

/** Routers are decided, so that rounding elsewhere does not choose other experts. */
const scaleOf = (kind: WeightSpec["kind"], cols: number): number => ({ vector: 0.3, matrix: 1.7 / Math.sqrt(cols), exact: 6 / Math.sqrt(cols) })[kind];

/** Random tensors for every weight of a program; vectors are near one, matrices keep activations of order one. */
export function randomWeights(program: Program, seed: number): WeightSource {
  const random = numbers(seed);
  const tensors = new Map(
    program.weights.flatMap(({ kind, cols, name, parts }) =>
      parts.map(({ tensor, rows }) => {
        const data = new Float32Array(rows * cols);
        const scale = scaleOf(kind, cols);
        const centre = kind === "vector" && !name.endsWith("bias") ? 1 : 0;
        for (let i = 0; i < data.length; i++) data[i] = centre + random() * scale;
        return [tensor, { data, rows, cols }] as const;
      }),
    ),
  );
  const tensor = (name: string) => {
    const found = tensors.get(name);
    if (found === undefined) throw new Error(`no tensor ${name}`);
    return found;
  };
  return {
    info: (name): TensorInfo => ({ dtype: "F32", rows: tensor(name).rows, cols: tensor(name).cols }),
    readRows(name, rowStart, numRows, target) {
      const { data, cols } = tensor(name);
      target.set(new Uint8Array(data.buffer, rowStart * cols * 4, numRows * cols * 4));
    },
  };
}

/** Truncates a float32 to bfloat16 bits. */
const bfloat16Bits = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;

export function randomMatrix(rows: number, cols: number, scale: number, dtype: "F32" | "BF16", random: () => number): AdapterMatrix {
  const values = Float32Array.from({ length: rows * cols }, () => random() * scale);
  const bytes =
    dtype === "F32" ? new Uint8Array(values.buffer) : new Uint8Array(Uint16Array.from(values, bfloat16Bits).buffer);
  return { dtype, rows, cols, bytes };
}

const vector = (length: number, centre: number, random: () => number): Float32Array =>
  Float32Array.from({ length }, () => centre + random());

export interface RandomAdapterOptions {
  readonly ranks: readonly number[];
  readonly dtype?: "F32" | "BF16";
  /** Share of modules that the adapter changes. */
  readonly coverage?: number;
  /** What it has beyond A and B. */
  readonly form?: AdapterForm;
  /** Share that it replaces of what the form may replace, tokens aside; default 0.6. */
  readonly replaced?: number;
}

export function randomAdapter(program: Program, seed: number, options: RandomAdapterOptions): AdapterWeights {
  const random = numbers(seed);
  const { form } = options;
  const dtype = options.dtype ?? "F32";
  const deltas: LoraDelta[] = [];
  const edge = form === "head_lora" ? "head" : form === "embedding_lora" ? "embedding" : undefined;
  program.sites.forEach((site, id) => {
    for (const module of site.modules) {
      if (!module.own || (site.kind !== undefined && site.kind !== edge)) continue;
      if (site.kind === undefined && (random() + 1) / 2 >= (options.coverage ?? 1)) continue;
      const rank = options.ranks[deltas.length % options.ranks.length]!;
      deltas.push({
        site: id,
        offset: module.offset,
        width: module.width,
        rank,
        scale: 0.5 + Math.abs(random()),
        // Of an embedding's A, one column at a time counts.
        a: randomMatrix(rank, site.inWidth, 1.7 / Math.sqrt(site.kind === "embedding" ? 3 : site.inWidth), dtype, random),
        b: randomMatrix(module.width, rank, 1.2 / Math.sqrt(rank), dtype, random),
        ...(form === "lora_bias" ? { bias: vector(module.width, 0, random) } : {}),
        ...(form === "dora" ? { magnitude: vector(module.width, 2, random) } : {}),
      });
    }
  });
  const replacements = randomReplacements(program, form, dtype, random, options.replaced ?? 0.6);
  const ranks = deltas.map((delta) => delta.rank);
  return {
    digest: `${seed}`.padStart(64, "0"),
    deltas,
    ...(replacements.length === 0 ? {} : { replacements }),
    forms: form === undefined ? [] : [form],
    report: {
      format: "peft",
      numModules: deltas.length,
      modules: [],
      maxRank: Math.max(...ranks),
      minRank: Math.min(...ranks),
      scaleRule: "alpha/rank",
      dtypes: ["F32"],
      numBytes: deltas.reduce((sum, { a, b }) => sum + a.bytes.length + b.bytes.length, 0),
      warnings: [],
    },
  };
}

function randomReplacements(program: Program, form: AdapterForm | undefined, dtype: "F32" | "BF16", random: () => number, share: number): Replacement[] {
  if (form !== "modules_to_save" && form !== "trainable_tokens" && form !== "base_bias") return [];
  const column = (rows: number, centre: number): AdapterMatrix => ({ dtype: "F32", rows, cols: 1, bytes: new Uint8Array(vector(rows, centre, random).buffer) });
  const found = program.operations.flatMap((operation): Replacement[] => {
    if (!("site" in operation) || operation.site === null) return [];
    const { rows: numRows, cols, numExperts = 1, kind: weightKind } = program.weights[operation.weight]!;
    const matrix = (rows: number): AdapterMatrix => randomMatrix(rows, cols, scaleOf(weightKind, cols), dtype, random);
    const { site } = operation;
    if (numExperts > 1) return form === "modules_to_save" ? Array.from({ length: numExperts }, (_, i) => runsOf(program, site + i, form, matrix)).flat() : [];
    const { kind, modules } = program.sites[site]!;
    if (form === "trainable_tokens") {
      if (kind !== "embedding" && kind !== "head") return [];
      const rows = Array.from({ length: numRows }, (_, i) => i).filter(() => random() < 0.2);
      return [{ site, part: "weight", form, rows, values: matrix(rows.length) }];
    }
    if (form === "base_bias") {
      if (operation.kind !== "linear" || operation.bias === null) return [];
      return modules.map(({ offset, width }) => ({ site, part: "bias", form, rows: offset, values: column(width, 0) }));
    }
    if (kind === "norm") return [{ site, part: "weight", form, rows: 0, values: column(numRows, 1) }];
    if (kind === "embedding") return [{ site, part: "weight", form, rows: 0, values: matrix(numRows) }];
    return runsOf(program, site, form, matrix);
  });
  return found.filter(() => form === "trainable_tokens" || random() < 2 * share - 1);
}

const runsOf = (program: Program, site: number, form: Replacement["form"], matrix: (rows: number) => AdapterMatrix): Replacement[] =>
  program.sites[site]!.modules.filter(({ own }) => own).map(({ offset, width }) => ({ site, part: "weight", form, rows: offset, values: matrix(width) }));
