/**
 * The forward program: a model's layers as a flat list of operations over named buffers.
 *
 * It is made once from `config.json`, knows nothing of a batch, and both backends run it. Activation
 * buffers are float32 `[rows, width]`; `step` buffers have one row per row of the step, `sampled`
 * buffers one per row whose logits are wanted, `routed` buffers one per row of the step and expert that
 * it was given, in an order that is the backend's affair.
 */

/** Index into `Program.buffers`. */
export type BufferId = number;
/** Index into `Program.weights`. */
export type WeightId = number;
/** Index into `Program.sites`. */
export type SiteId = number;

export interface BufferSpec {
  readonly name: string;
  /** Floats per row. */
  readonly width: number;
  readonly rows: "step" | "sampled" | "routed";
}

/** A tensor of the checkpoint, or a run of its rows, that becomes part of a weight. */
export interface WeightPart {
  readonly tensor: string;
  /** Rows taken, all of the tensor's. A tensor of three dimensions counts as its matrices stacked along rows. */
  readonly rows: number;
  /** Shape of a tensor of three dimensions; left out for `[rows, cols]`, or `[rows]` of a vector. */
  readonly shape?: readonly number[];
}

export interface WeightSpec {
  readonly name: string;
  /** `matrix` is stored in the backend's weight format; `exact` is a matrix in float32, `vector` too. */
  readonly kind: "matrix" | "exact" | "vector";
  /** Of each matrix. */
  readonly rows: number;
  /** 1 for a vector. */
  readonly cols: number;
  /** Matrices of this shape behind each other, one per expert; left out for one. */
  readonly numExperts?: number;
  /** Stacked along rows, in order, over all experts. Two weights may name the same tensor (tied embeddings share one weight instead). */
  readonly parts: readonly WeightPart[];
}

/**
 * A place where adapters act: one operation's input and output.
 *
 * `modules` says which slice of the output each module path writes: `q_proj`, `k_proj` and `v_proj`
 * of a fused matrix, or the fused `qkv_proj` itself. Modules that the base checkpoint does not have
 * under that name (`own: false`) are other spellings that adapters of fused or split layouts use.
 */
export interface LoraSite {
  readonly name: string;
  /** -1 outside the layers. */
  readonly layer: number;
  /**
   * What is there beside the matrices of layers, for which it is left out. The input of an `embedding` counts as a vector
   * of `inWidth` tokens with a one where the token is, so its A and B are shaped as anywhere else. A `norm` only has a vector.
   */
  readonly kind?: "embedding" | "head" | "norm";
  readonly inWidth: number;
  readonly outWidth: number;
  readonly modules: readonly SiteModule[];
  /** Which expert's matrix this is; left out where a layer has one matrix for all rows. */
  readonly expert?: number;
  /**
   * Path of the parameter of transformers 5 that holds this matrix, with those of all experts where `expert` is set,
   * e.g. `model.layers.0.mlp.experts.down_proj`; left out where it is `NAME.weight` of a module.
   */
  readonly parameter?: string;
}

export interface SiteModule {
  /** Full path as in the checkpoint, e.g. `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  readonly offset: number;
  readonly width: number;
  readonly own: boolean;
}

export interface RopeSpec {
  /** Rotated part of the head, even, at most `headDim`; the rest passes through. */
  readonly rotaryDim: number;
  /** `[rotaryDim / 2]` inverse frequencies in float64, scaling rules already applied. */
  readonly inverseFrequencies: readonly number[];
  /** Multiplies cosine and sine; 1 except for scalings that ask for it. */
  readonly attentionScaling: number;
}

export type Operation =
  /** `out[row] = weight[token[row]] [+ adapter delta of site]` */
  | { readonly kind: "embed"; readonly weight: WeightId; readonly out: BufferId; readonly site: SiteId | null }
  /** `out = x / rms(x) * weight`, per row */
  | {
      readonly kind: "rmsNorm";
      readonly x: BufferId;
      readonly weight: WeightId;
      readonly eps: number;
      readonly out: BufferId;
      readonly site: SiteId | null;
    }
  /**
   * `out = [out +] weight · x [+ bias] [+ adapter deltas of site]`.
   * With `accumulate` the whole product, bias and deltas are added to what `out` holds (the residual stream).
   */
  | {
      readonly kind: "linear";
      readonly x: BufferId;
      readonly weight: WeightId;
      readonly bias: WeightId | null;
      readonly out: BufferId;
      readonly accumulate: boolean;
      readonly site: SiteId | null;
    }
  /** RMS norm of each head in `x[offset .. offset + numHeads * headDim]`, in place; `weight` is `[headDim]` */
  | {
      readonly kind: "headNorm";
      readonly x: BufferId;
      readonly offset: number;
      readonly numHeads: number;
      readonly weight: WeightId;
      readonly eps: number;
      readonly site: SiteId | null;
    }
  /** Rotates q and k of the fused qkv buffer in place and writes k and v into the layer's pages */
  | { readonly kind: "ropeKvWrite"; readonly qkv: BufferId; readonly layer: number }
  /** Causal attention of each row over its sequence's pages; `window` limits how far back, in positions */
  | {
      readonly kind: "attention";
      readonly qkv: BufferId;
      readonly out: BufferId;
      readonly layer: number;
      readonly window: number | null;
    }
  /**
   * `out[row]` = the `topK` experts of the largest logits, largest first and the lower number where two are equal; then
   * their shares of a softmax over all experts, divided by their sum where `normalize` is set.
   */
  | {
      readonly kind: "route";
      readonly logits: BufferId;
      readonly out: BufferId;
      readonly normalize: boolean;
    }
  /**
   * `out = weight[expert] · x [+ adapter deltas of the expert's site]` for every row and expert of `routes`. `x` is a
   * `step` or a `routed` buffer, `out` is `routed`; sites of the experts follow each other, `site` being the first.
   */
  | {
      readonly kind: "expertLinear";
      readonly x: BufferId;
      readonly routes: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
      readonly site: SiteId;
    }
  /** `out[row] += sum over the row's experts, in the order of routes, of share * x[row, expert]` */
  | {
      readonly kind: "combine";
      readonly x: BufferId;
      readonly routes: BufferId;
      readonly out: BufferId;
    }
  /** `out = silu(x[0 .. width]) * x[width .. 2 * width]` */
  | { readonly kind: "siluMul"; readonly x: BufferId; readonly out: BufferId }
  /** Copies the sampled rows of `x` into a `sampled` buffer */
  | { readonly kind: "gather"; readonly x: BufferId; readonly out: BufferId }
  /** Picks a token for each sampled row from its logits */
  | { readonly kind: "sample"; readonly logits: BufferId };

export interface AttentionShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Multiplies the scores: `1 / sqrt(headDim)` for all models served. */
  readonly scale: number;
}

/** The same in every layer that has experts. */
export interface Routing {
  readonly numExperts: number;
  /** Experts that each row is given. */
  readonly topK: number;
}

export interface Program {
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly vocabSize: number;
  /** Longest sequence the positions allow. */
  readonly maxContext: number;
  readonly attention: AttentionShape;
  readonly rope: RopeSpec;
  /** Left out for a model without experts. */
  readonly routing?: Routing;
  readonly buffers: readonly BufferSpec[];
  readonly weights: readonly WeightSpec[];
  readonly sites: readonly LoraSite[];
  readonly operations: readonly Operation[];
}

/** Sites of the layers' matrices: those that adapters of every kind change, and that their room is planned for. */
export const layerSites = ({ sites }: Program): readonly LoraSite[] => sites.filter(({ kind }) => kind === undefined);

/** Sites of routers, whose matrices are in float32. */
export const routerSites = ({ operations, weights }: Program): ReadonlySet<SiteId> =>
  new Set(operations.flatMap((each) => (each.kind === "linear" && each.site !== null && weights[each.weight]!.kind === "exact" ? [each.site] : [])));
