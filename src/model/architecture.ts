/**
 * What one architecture adds to the common decoder: rotary attention and a gated MLP, each behind an RMS norm.
 *
 * The file of an architecture is a record of this type; the program is built from it by `decoder-program.ts`.
 */
import type { ConfigFields } from "./config-fields.ts";
import type { RopeType } from "./rope-config.ts";

export interface Architecture {
  /** As in `architectures`, e.g. `LlamaForCausalLM`. */
  readonly className: string;
  /** As in `model_type`. */
  readonly modelType: string;
  /** What an absent field means, where transformers' class for this architecture has a value of its own. */
  readonly defaults: {
    /** `null`: as many as attention heads. */
    readonly numKvHeads: number | null;
    /** `null`: hidden size / heads. */
    readonly headDim: number | null;
    readonly maxPositions: number;
    readonly rmsNormEps: number;
    /** Left out for 10,000. */
    readonly ropeTheta?: number;
  };
  readonly ropeTypes: readonly RopeType[];
  /** Other names that this architecture's files use for a rope type. */
  readonly ropeTypeAliases?: Readonly<Record<string, RopeType>>;
  /** Whether a part of each head may stay unrotated. */
  readonly partialRotary: boolean;
  traits(fields: ConfigFields, numLayers: number): DecoderTraits;
}

export interface DecoderTraits {
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** RMS norms on each head of q and k, before the rotation. */
  readonly headNorms: boolean;
  /** The checkpoint holds `qkv_proj` and `gate_up_proj` in place of their parts. */
  readonly fusedProjections: boolean;
  /** Left out where every layer's MLP is dense. */
  readonly experts?: ExpertTraits;
  /** Per layer: positions that attention reaches back to, its own included; `null` for all. */
  readonly windows: readonly (number | null)[];
}

/** A mixture of experts in place of the MLP of some layers. */
export interface ExpertTraits {
  readonly numExperts: number;
  /** Experts per row, at most `numExperts`. */
  readonly topK: number;
  /** An expert's intermediate width. */
  readonly width: number;
  /** The shares of a row's experts are divided by their sum. */
  readonly normalize: boolean;
  /** Per layer: whether it has experts. */
  readonly sparse: readonly boolean[];
  /** Last part of the path of router and experts in a checkpoint with a tensor per expert. */
  readonly block: string;
  /** Names of an expert's projections there. */
  readonly projections: { readonly gate: string; readonly up: string; readonly down: string };
}
