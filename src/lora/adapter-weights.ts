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
export type AdapterForm = "dora" | "lora_bias";

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

export interface AdapterWeights {
  /** SHA-256 over the canonical configuration and weights, hex. */
  readonly digest: string;
  /** Ordered by site, then offset. */
  readonly deltas: readonly LoraDelta[];
  /** Forms that the deltas use; left out for plain LoRA. A backend that does not name one of them is never given the adapter. */
  readonly forms?: readonly AdapterForm[];
  readonly report: AdapterReport;
}
