/**
 * A model of random weights for a given shape, written as a checkpoint that loads like any other.
 *
 * Values are normal with the standard deviation that keeps activations of order one, so that benches
 * move realistic numbers: zeros and constants flatter some hardware.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";

export interface ModelShape {
  readonly name: string;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly vocabSize: number;
  readonly tied: boolean;
  readonly maxPositions: number;
}

/** A Llama of 135 million parameters. */
export const LLAMA_135M: ModelShape = {
  name: "llama-135m",
  hiddenSize: 576,
  numLayers: 30,
  numHeads: 9,
  numKvHeads: 3,
  headDim: 64,
  intermediateSize: 1536,
  vocabSize: 49152,
  tied: true,
  maxPositions: 2048,
};

/** The demo model's shape. */
export const DEMO_SHAPE: ModelShape = {
  name: "llama-demo",
  hiddenSize: 256,
  numLayers: 6,
  numHeads: 4,
  numKvHeads: 2,
  headDim: 64,
  intermediateSize: 768,
  vocabSize: 4096,
  tied: true,
  maxPositions: 1024,
};

/** A seeded generator: benches repeat the same numbers. Source: mulberry32. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Bfloat16 values, roughly normal (a sum of four uniforms) with the given deviation. */
export function randomBfloat16(length: number, deviation: number, random: () => number): Uint16Array {
  const floats = new Float32Array(length);
  const scale = deviation * Math.sqrt(3);
  for (let i = 0; i < length; i++) floats[i] = (random() + random() + random() + random() - 2) * scale;
  const bits = new Uint32Array(floats.buffer);
  return Uint16Array.from(bits, (value) => value >>> 16);
}

export interface NamedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly data: Uint16Array;
}

/** A safetensors file of bfloat16 tensors. */
export async function writeSafetensors(path: string, tensors: readonly NamedTensor[]): Promise<void> {
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const { name, shape, data } of tensors) {
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  const text = JSON.stringify(header);
  const json = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
  const writer = Bun.file(path).writer();
  await writer.write(new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer));
  await writer.write(json);
  for (const { data } of tensors) {
    await writer.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  await writer.end();
}

/** @returns the model's directory; made once and kept */
export async function randomModel(shape: ModelShape, root: string): Promise<string> {
  const directory = join(root, shape.name);
  if (existsSync(join(directory, "config.json"))) return directory;
  mkdirSync(directory, { recursive: true });
  const random = randomSource(7);
  const { hiddenSize: h, intermediateSize: f, headDim, numHeads, numKvHeads } = shape;
  const tensors: NamedTensor[] = [];
  const matrix = (name: string, rows: number, cols: number): void => {
    tensors.push({ name, shape: [rows, cols], data: randomBfloat16(rows * cols, 1 / Math.sqrt(cols), random) });
  };
  const ones = (name: string): void => {
    tensors.push({ name, shape: [h], data: new Uint16Array(h).fill(0x3f80) });
  };
  matrix("model.embed_tokens.weight", shape.vocabSize, h);
  for (let layer = 0; layer < shape.numLayers; layer++) {
    const at = `model.layers.${layer}`;
    ones(`${at}.input_layernorm.weight`);
    ones(`${at}.post_attention_layernorm.weight`);
    matrix(`${at}.self_attn.q_proj.weight`, numHeads * headDim, h);
    matrix(`${at}.self_attn.k_proj.weight`, numKvHeads * headDim, h);
    matrix(`${at}.self_attn.v_proj.weight`, numKvHeads * headDim, h);
    matrix(`${at}.self_attn.o_proj.weight`, h, numHeads * headDim);
    matrix(`${at}.mlp.gate_proj.weight`, f, h);
    matrix(`${at}.mlp.up_proj.weight`, f, h);
    matrix(`${at}.mlp.down_proj.weight`, h, f);
  }
  ones("model.norm.weight");
  if (!shape.tied) matrix("lm_head.weight", shape.vocabSize, h);
  await writeSafetensors(join(directory, "model.safetensors"), tensors);
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: h,
    num_hidden_layers: shape.numLayers,
    num_attention_heads: numHeads,
    num_key_value_heads: numKvHeads,
    head_dim: headDim,
    intermediate_size: f,
    vocab_size: shape.vocabSize,
    max_position_embeddings: shape.maxPositions,
    rms_norm_eps: 1e-5,
    hidden_act: "silu",
    tie_word_embeddings: shape.tied,
    torch_dtype: "bfloat16",
    rope_theta: 10000,
    bos_token_id: 1,
    eos_token_id: 2,
  };
  await Bun.write(join(directory, "config.json"), JSON.stringify(config, null, 1));
  return directory;
}

/** A PEFT adapter of random weights on all seven linear layers. */
export async function randomAdapter(shape: ModelShape, rank: number, seed: number, root: string): Promise<string> {
  const directory = join(root, `${shape.name}-r${rank}-${seed}`);
  if (existsSync(join(directory, "adapter_config.json"))) return directory;
  mkdirSync(directory, { recursive: true });
  const random = randomSource(1000 + seed);
  const { hiddenSize: h, intermediateSize: f } = shape;
  const q = shape.numHeads * shape.headDim;
  const kv = shape.numKvHeads * shape.headDim;
  const modules: readonly (readonly [string, number, number])[] = [
    ["self_attn.q_proj", h, q],
    ["self_attn.k_proj", h, kv],
    ["self_attn.v_proj", h, kv],
    ["self_attn.o_proj", q, h],
    ["mlp.gate_proj", h, f],
    ["mlp.up_proj", h, f],
    ["mlp.down_proj", f, h],
  ];
  const tensors: NamedTensor[] = [];
  for (let layer = 0; layer < shape.numLayers; layer++) {
    for (const [module, inWidth, outWidth] of modules) {
      const name = `base_model.model.model.layers.${layer}.${module}`;
      tensors.push({ name: `${name}.lora_A.weight`, shape: [rank, inWidth], data: randomBfloat16(rank * inWidth, 1 / Math.sqrt(inWidth), random) });
      tensors.push({ name: `${name}.lora_B.weight`, shape: [outWidth, rank], data: randomBfloat16(outWidth * rank, 0.1 / Math.sqrt(rank), random) });
    }
  }
  await writeSafetensors(join(directory, "adapter_model.safetensors"), tensors);
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    r: rank,
    lora_alpha: rank,
    target_modules: modules.map(([module]) => module.split(".")[1]),
    bias: "none",
  };
  await Bun.write(join(directory, "adapter_config.json"), JSON.stringify(config, null, 1));
  return directory;
}
