/** Writes model directories: configurations, safetensors files and indexes, right or wrong on purpose. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { parseModelConfig } from "../../src/model/model-config.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface TensorSpec {
  readonly dtype?: string;
  readonly shape: readonly number[];
  /** Zeros of the right length unless given. */
  readonly bytes?: Uint8Array;
}

const DTYPE_BYTES: Record<string, number> = { F32: 4, F16: 2, BF16: 2, F64: 8, I64: 8, I32: 4 };

/** A header of this text before `data`, with the text's own length unless another is given. */
export function safetensorsBytes(
  header: string,
  data: Uint8Array,
  headerBytes?: bigint,
): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, headerBytes ?? BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}

export function encodeSafetensors(tensors: Readonly<Record<string, TensorSpec>>): Uint8Array {
  let at = 0;
  // Without a prototype, so that a tensor may be named __proto__.
  const header = Object.assign(Object.create(null) as Record<string, Json>, {
    __metadata__: { format: "pt" },
  });
  const chunks: Uint8Array[] = [];
  for (const [name, { dtype = "F32", shape, bytes }] of Object.entries(tensors)) {
    const numBytes = shape.reduce((a, b) => a * b, 1) * (DTYPE_BYTES[dtype] ?? 1);
    chunks.push(bytes ?? new Uint8Array(numBytes));
    header[name] = { dtype, shape: [...shape], data_offsets: [at, at + numBytes] };
    at += numBytes;
  }
  return safetensorsBytes(JSON.stringify(header), Buffer.concat(chunks));
}

/** A Llama small enough for every test, in the spelling of transformers 5. */
export const TINY_LLAMA: { readonly [key: string]: Json } = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 16,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 4,
  vocab_size: 11,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_parameters: { rope_type: "default", rope_theta: 10000 },
  tie_word_embeddings: false,
  eos_token_id: 2,
};

/** `TINY_LLAMA` with changes; `undefined` removes a field. */
export function tinyConfig(
  changes: Readonly<Record<string, Json | undefined>> = {},
): Record<string, Json> {
  const config: Record<string, Json> = { ...TINY_LLAMA };
  for (const [field, value] of Object.entries(changes)) {
    if (value === undefined) delete config[field];
    else config[field] = value;
  }
  return config;
}

/** Zero tensors in the shapes that the program of a configuration asks for. */
export function tensorsOf(config: Record<string, Json>): Record<string, TensorSpec> {
  const tensors: Record<string, TensorSpec> = {};
  for (const { kind, cols, parts } of buildDecoderProgram(parseModelConfig(config)).weights) {
    for (const { tensor, rows } of parts)
      tensors[tensor] = { shape: kind === "vector" ? [rows] : [rows, cols] };
  }
  return tensors;
}

const written: string[] = [];
process.once("exit", () => {
  for (const directory of written) rmSync(directory, { recursive: true, force: true });
});

/** @returns a fresh directory with these files, removed at exit; text and bytes as they are, anything else as JSON */
export function writeDirectory(
  files: Readonly<Record<string, string | Uint8Array | Json>>,
): string {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-model-"));
  written.push(directory);
  for (const [name, content] of Object.entries(files)) {
    const raw = typeof content === "string" || content instanceof Uint8Array;
    writeFileSync(join(directory, name), raw ? content : JSON.stringify(content));
  }
  return directory;
}
