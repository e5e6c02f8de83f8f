/**
 * Builds the forward program of a decoder: for each layer attention and a gated MLP or experts, each behind an RMS
 * norm and added to the residual stream.
 *
 * q, k and v lie in one buffer and one matrix, gate and up in another, whether the checkpoint stacks them or
 * not. Rows to be sampled leave the residual stream before the final norm, so that norm and logits are
 * computed for them alone.
 */
import type { ModelConfig } from "./model-config.ts";
import { ProgramBuilder } from "./program-builder.ts";
import type { BufferId, Program, SiteId, WeightId } from "./program.ts";
import { ropeSpec } from "./rope.ts";
import { addSparseMlp, type ExpertSpelling } from "./sparse-mlp.ts";

/** One of the linear modules that share a matrix. */
interface Projection {
  readonly name: string;
  readonly width: number;
}

interface LayerBuffers {
  /** The residual stream. */
  readonly hidden: BufferId;
  readonly normed: BufferId;
  readonly qkv: BufferId;
  readonly attended: BufferId;
}

/** @param spelling of the checkpoint that the weights will come from */
export function buildDecoderProgram(
  config: ModelConfig,
  spelling: ExpertSpelling = "tensor-per-expert",
): Program {
  const { hiddenSize, vocabSize, numHeads, numKvHeads, headDim } = config;
  const builder = new ProgramBuilder();
  const buffers: LayerBuffers = {
    hidden: builder.buffer("hidden", hiddenSize, "step"),
    normed: builder.buffer("normed", hiddenSize, "step"),
    qkv: builder.buffer("qkv", (numHeads + 2 * numKvHeads) * headDim, "step"),
    attended: builder.buffer("attended", numHeads * headDim, "step"),
  };
  const embedding = builder.matrix("model.embed_tokens.weight", vocabSize, hiddenSize);
  builder.add({
    kind: "embed",
    weight: embedding,
    out: buffers.hidden,
    site: edgeSite(builder, "embedding", "model.embed_tokens", vocabSize, hiddenSize),
  });
  for (let layer = 0; layer < config.numLayers; layer++) {
    addAttention(builder, config, layer, buffers);
    addMlp(builder, config, spelling, layer, buffers);
  }
  addHead(builder, config, embedding, buffers.hidden);
  return {
    numLayers: config.numLayers,
    hiddenSize,
    vocabSize,
    maxContext: config.maxContext,
    attention: { numHeads, numKvHeads, headDim, scale: 1 / Math.sqrt(headDim) },
    rope: ropeSpec(config.rope),
    ...routingOf(config),
    ...builder.finish(),
  };
}

function addAttention(
  builder: ProgramBuilder,
  config: ModelConfig,
  layer: number,
  { hidden, normed, qkv, attended }: LayerBuffers,
): void {
  const { hiddenSize, numHeads, numKvHeads, headDim, rmsNormEps: eps, traits } = config;
  const path = `model.layers.${layer}`;
  const self = `${path}.self_attn`;
  addNorm(builder, `${path}.input_layernorm`, layer, hiddenSize, eps, hidden, normed);
  addStacked(builder, layer, {
    parent: self,
    stacked: "qkv_proj",
    projections: [
      { name: "q_proj", width: numHeads * headDim },
      { name: "k_proj", width: numKvHeads * headDim },
      { name: "v_proj", width: numKvHeads * headDim },
    ],
    isFused: traits.fusedProjections,
    hasBias: traits.qkvBias,
    inWidth: hiddenSize,
    x: normed,
    out: qkv,
  });
  if (traits.headNorms) {
    const norm = { kind: "headNorm", x: qkv, eps } as const;
    builder.add({ ...norm, offset: 0, numHeads, ...normWeight(builder, `${self}.q_norm`, layer, headDim) });
    builder.add({
      ...norm,
      offset: numHeads * headDim,
      numHeads: numKvHeads,
      ...normWeight(builder, `${self}.k_norm`, layer, headDim),
    });
  }
  builder.add({ kind: "ropeKvWrite", qkv, layer });
  builder.add({
    kind: "attention",
    qkv,
    out: attended,
    layer,
    window: traits.windows[layer] ?? null,
  });
  addOutput(
    builder,
    layer,
    `${self}.o_proj`,
    numHeads * headDim,
    hiddenSize,
    traits.outputBias,
    attended,
    hidden,
  );
}

const routingOf = ({ traits: { experts } }: ModelConfig): Pick<Program, "routing"> =>
  experts === undefined
    ? {}
    : { routing: { numExperts: experts.numExperts, topK: experts.topK } };

function addMlp(
  builder: ProgramBuilder,
  config: ModelConfig,
  spelling: ExpertSpelling,
  layer: number,
  { hidden, normed }: LayerBuffers,
): void {
  const { hiddenSize, intermediateSize, rmsNormEps, traits } = config;
  const path = `model.layers.${layer}`;
  addNorm(builder, `${path}.post_attention_layernorm`, layer, hiddenSize, rmsNormEps, hidden, normed);
  const { experts } = traits;
  if (experts?.sparse[layer] === true) {
    addSparseMlp(builder, { layer, hiddenSize, experts, spelling, x: normed, hidden });
    return;
  }
  const gateUp = builder.buffer("gate_up", 2 * intermediateSize, "step");
  const gated = builder.buffer("gated", intermediateSize, "step");
  addStacked(builder, layer, {
    parent: `${path}.mlp`,
    stacked: "gate_up_proj",
    projections: [
      { name: "gate_proj", width: intermediateSize },
      { name: "up_proj", width: intermediateSize },
    ],
    isFused: traits.fusedProjections,
    hasBias: traits.mlpBias,
    inWidth: hiddenSize,
    x: normed,
    out: gateUp,
  });
  builder.add({ kind: "siluMul", x: gateUp, out: gated });
  addOutput(
    builder,
    layer,
    `${path}.mlp.down_proj`,
    intermediateSize,
    hiddenSize,
    traits.mlpBias,
    gated,
    hidden,
  );
}

function addHead(
  builder: ProgramBuilder,
  config: ModelConfig,
  embedding: WeightId,
  hidden: BufferId,
): void {
  const { hiddenSize, vocabSize } = config;
  const gathered = builder.buffer("sampled_hidden", hiddenSize, "sampled");
  const normed = builder.buffer("sampled_normed", hiddenSize, "sampled");
  const logits = builder.buffer("logits", vocabSize, "sampled");
  builder.add({ kind: "gather", x: hidden, out: gathered });
  addNorm(builder, "model.norm", -1, hiddenSize, config.rmsNormEps, gathered, normed);
  const weight = config.tiedEmbeddings
    ? embedding
    : builder.matrix("lm_head.weight", vocabSize, hiddenSize);
  builder.add({
    kind: "linear",
    x: normed,
    weight,
    bias: null,
    out: logits,
    accumulate: false,
    site: edgeSite(builder, "head", "lm_head", hiddenSize, vocabSize),
  });
  builder.add({ kind: "sample", logits });
}

/** A site outside the layers. */
const edgeSite = (builder: ProgramBuilder, kind: "embedding" | "head", path: string, inWidth: number, outWidth: number): SiteId =>
  builder.site({ name: path, layer: -1, kind, inWidth, outWidth, modules: [{ path, offset: 0, width: outWidth, own: true }] });

const normWeight = (builder: ProgramBuilder, path: string, layer: number, width: number): { readonly weight: WeightId; readonly site: SiteId } => ({
  weight: builder.vector([`${path}.weight`], [width]),
  site: builder.site({ name: path, layer, kind: "norm", inWidth: width, outWidth: width, modules: [{ path, offset: 0, width, own: true }] }),
});

function addNorm(
  builder: ProgramBuilder,
  path: string,
  layer: number,
  width: number,
  eps: number,
  x: BufferId,
  out: BufferId,
): void {
  builder.add({ kind: "rmsNorm", x, eps, out, ...normWeight(builder, path, layer, width) });
}

interface StackedLinear {
  readonly parent: string;
  /** Name of the module that holds all parts in a fused checkpoint. */
  readonly stacked: string;
  readonly projections: readonly Projection[];
  readonly isFused: boolean;
  readonly hasBias: boolean;
  readonly inWidth: number;
  readonly x: BufferId;
  readonly out: BufferId;
}

/** One linear operation for modules that read the same input; adapters may name the parts or the whole. */
function addStacked(builder: ProgramBuilder, layer: number, linear: StackedLinear): void {
  const { parent, projections, isFused, hasBias, inWidth, x, out } = linear;
  const width = projections.reduce((sum, projection) => sum + projection.width, 0);
  const stacked = { name: linear.stacked, width };
  const stored = isFused ? [stacked] : projections;
  const paths = stored.map(({ name }) => `${parent}.${name}`);
  const widths = stored.map((projection) => projection.width);
  let offset = 0;
  const parts = projections.map(({ name, width: partWidth }) => {
    const module = { path: `${parent}.${name}`, offset, width: partWidth, own: !isFused };
    offset += partWidth;
    return module;
  });
  const whole = { path: `${parent}.${linear.stacked}`, offset: 0, width, own: isFused };
  builder.add({
    kind: "linear",
    x,
    weight: builder.stackedMatrix(
      paths.map((path) => `${path}.weight`),
      widths,
      inWidth,
    ),
    bias: hasBias
      ? builder.vector(
          paths.map((path) => `${path}.bias`),
          widths,
        )
      : null,
    out,
    accumulate: false,
    site: builder.site({
      name: `${parent}.${linear.stacked}`,
      layer,
      inWidth,
      outWidth: width,
      modules: isFused ? [whole, ...parts] : [...parts, whole],
    }),
  });
}

/** A linear operation that adds to the residual stream. */
function addOutput(
  builder: ProgramBuilder,
  layer: number,
  path: string,
  inWidth: number,
  outWidth: number,
  hasBias: boolean,
  x: BufferId,
  out: BufferId,
): void {
  builder.add({
    kind: "linear",
    x,
    weight: builder.matrix(`${path}.weight`, outWidth, inWidth),
    bias: hasBias ? builder.vector([`${path}.bias`], [outWidth]) : null,
    out,
    accumulate: true,
    site: builder.site({
      name: path,
      layer,
      inWidth,
      outWidth,
      modules: [{ path, offset: 0, width: outWidth, own: true }],
    }),
  });
}
