/** The one form that every adapter file is translated to. */
import type { SiteId } from "../model/program.ts";
import type { AdapterReport } from "./adapter-report.ts";

/** Row-major numbers as they lie in a file, little-endian. */
export interface AdapterMatrix {
  readonly dtype: "F32" | "F16" | "BF16";
  readonly rows: number;
  readonly cols: number;
  readonly bytes: Uint8Array;
}

/** Forms beyond plain LoRA that a backend may or may not serve. */
export type AdapterForm =
  "dora" | "lora_bias" | "head_lora" | "embedding_lora" | "modules_to_save" | "trainable_tokens" | "base_bias" | "base_copies";

/** `out[offset .. offset + width] += scale · (B · (A · x) [+ bias])` at one site. */
export interface LoraDelta {
  readonly site: SiteId;
  readonly offset: number;
  readonly width: number;
  readonly rank: number;
  /** `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA; kept apart from B, in float64 here and float32 on the device. */
  readonly scale: number;
  /** `[rank, inWidth]` */
  readonly a: AdapterMatrix;
  /** `[width, rank]` */
  readonly b: AdapterMatrix;
  /** `[width]`, form `lora_bias`; left out where there is none. */
  readonly bias?: Float32Array;
  /**
   * `[width]`, form `dora`: each row of `W + scale · B · A` is brought to this length. With
   * `gain = magnitude / |W + scale · B · A|` the output is `gain · (W · x + scale · B · (A · x))`, the base's bias aside.
   */
  readonly magnitude?: Float32Array;
}

/**
 * Rows of a site's base weight, or of its bias, that an adapter has of its own.
 *
 * A row is an output of a linear operation or a head, a token of an embedding, a number of a norm.
 */
export interface Replacement {
  readonly site: SiteId;
  readonly part: "weight" | "bias";
  /** What brings it along. `base_copies` are of the base that was trained on: where this base has the same numbers they change nothing. */
  readonly form: Extract<AdapterForm, "modules_to_save" | "trainable_tokens" | "base_bias" | "base_copies">;
  /** The first of the rows, or each of them, ascending. */
  readonly rows: number | readonly number[];
  /** `[rows, cols]`; one column for biases and norms. */
  readonly values: AdapterMatrix;
}

export interface AdapterWeights {
  /** SHA-256 over the canonical configuration and weights, hex. */
  readonly digest: string;
  /** Ordered by site, then offset. */
  readonly deltas: readonly LoraDelta[];
  /** Ordered by site; no two of them share a row, but for those listed one by one, which come first. Left out for none. */
  readonly replacements?: readonly Replacement[];
  /** Forms that these use; left out for plain LoRA. A backend that does not name one of them is never given the adapter. */
  readonly forms?: readonly AdapterForm[];
  readonly report: AdapterReport;
}
