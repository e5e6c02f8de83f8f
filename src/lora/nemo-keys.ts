/** Names of tensors in a NeMo archive: which layer, which adapter, which of its two matrices. */
import { AdapterError } from "../core/errors.ts";
import { quoted } from "../formats/format-error.ts";
import type { NemoTarget } from "./nemo-config.ts";

export interface NemoAdapter {
  /** Last part of the module's path on the base, in its fused spelling where the adapter is fused. */
  readonly module: string;
  readonly target: NemoTarget;
  /** How rows of B are kept. */
  readonly rows: "plain" | "qkv" | "kv" | "halves";
  /** How ranks divide A: by its rows, or by its columns where the base's own matrix is divided so. */
  readonly divides: "rows" | "columns";
}

export interface NemoKey {
  readonly layer: number;
  readonly adapter: NemoAdapter;
  readonly matrix: "a" | "b";
}

const qkv = (module: string, rows: NemoAdapter["rows"]): NemoAdapter => ({ module, target: "attention_qkv", rows, divides: "rows" });
const fc1 = (module: string, rows: NemoAdapter["rows"]): NemoAdapter => ({ module, target: "mlp_fc1", rows, divides: "rows" });

/** @source https://github.com/NVIDIA-NeMo/NeMo, modules/common/megatron/adapters/parallel_adapters.py (names) */
const ADAPTERS = new Map<string, NemoAdapter>([
  ["self_attention.lora_kqv_adapter", qkv("qkv_proj", "qkv")],
  ["self_attention.lora_unfused_kqv_adapter.q_adapter", qkv("q_proj", "plain")],
  ["self_attention.lora_unfused_kqv_adapter.k_adapter", qkv("k_proj", "plain")],
  ["self_attention.lora_unfused_kqv_adapter.v_adapter", qkv("v_proj", "plain")],
  ["self_attention.lora_q_adapter", qkv("q_proj", "plain")],
  ["self_attention.lora_kv_adapter", qkv("kv", "kv")],
  ["self_attention.lora_dense_attention_adapter", { module: "o_proj", target: "attention_dense", rows: "plain", divides: "columns" }],
  ["mlp.lora_hto4h_adapter", fc1("gate_up_proj", "halves")],
  ["mlp.lora_unfused_hto4h_adapter.gate_adapter", fc1("gate_proj", "plain")],
  ["mlp.lora_unfused_hto4h_adapter.up_adapter", fc1("up_proj", "plain")],
  ["mlp.lora_4htoh_adapter", { module: "down_proj", target: "mlp_fc2", rows: "plain", divides: "columns" }],
]);

const KEY = /^(?:model\.)?(?:module\.)?(?:language_model\.encoder\.|decoder\.)?layers\.([0-9]{1,6})\.(self_attention|mlp)\.adapter_layer\.(.+)\.linear_(in|out)\.weight$/;

/** State of layers that compute in 8 bits; it holds no weights. */
export const isExtraState = (name: string): boolean => name.endsWith("._extra_state");

/** @throws {AdapterError} `adapter_unsupported` for adapters that are not served, `adapter_invalid` for other names */
export function parseNemoKey(name: string): NemoKey {
  const match = KEY.exec(name);
  const adapter = match === null ? undefined : ADAPTERS.get(`${match[2]!}.${match[3]!}`);
  if (match !== null && adapter !== undefined) return { layer: Number(match[1]), adapter, matrix: match[4] === "in" ? "a" : "b" };
  if (/lora_moe_|local_experts/.test(name)) {
    throw new AdapterError("adapter_unsupported", `tensor ${quoted(name)} adapts an expert; adapters on experts are not served yet`);
  }
  if (/inter_attention|cross_attention/.test(name)) {
    throw new AdapterError("adapter_unsupported", `tensor ${quoted(name)} adapts cross attention, which decoder-only models do not have`);
  }
  throw new AdapterError("adapter_invalid", `tensor ${quoted(name)} is not a LoRA matrix of NeMo; names end in adapter_layer.NAME.linear_in.weight or .linear_out.weight`);
}
