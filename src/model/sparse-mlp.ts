/**
 * The MLP of a layer with experts: a router gives each row some of them, and their outputs are added by shares.
 *
 * A checkpoint has a tensor per expert and projection, or, as transformers 5 holds them in memory, one parameter of
 * three dimensions for gate and up of all experts, `[experts, 2 * width, hidden]`, and one for down.
 */
import type { ExpertTraits } from "./architecture.ts";
import type { ProgramBuilder } from "./program-builder.ts";
import type { BufferId, LoraSite, SiteModule, WeightPart } from "./program.ts";

/** How a checkpoint spells experts. */
export type ExpertSpelling = "tensor-per-expert" | "parameter-per-layer";

const PARAMETER = /\.mlp\.experts\.(?:gate_up_proj|down_proj)$/;

export function expertSpelling(tensorNames: Iterable<string>): ExpertSpelling {
  for (const name of tensorNames) if (PARAMETER.test(name)) return "parameter-per-layer";
  return "tensor-per-expert";
}

interface SparseMlp {
  readonly layer: number;
  readonly hiddenSize: number;
  readonly experts: ExpertTraits;
  readonly spelling: ExpertSpelling;
  /** Behind the norm. */
  readonly x: BufferId;
  /** The residual stream. */
  readonly hidden: BufferId;
}

export function addSparseMlp(builder: ProgramBuilder, mlp: SparseMlp): void {
  const { experts, hiddenSize } = mlp;
  const { numExperts, topK, width, normalize } = experts;
  const logits = builder.buffer("router_logits", numExperts, "step");
  const routes = builder.buffer("routes", 2 * topK, "step");
  const gateUp = builder.buffer("expert_gate_up", 2 * width, "routed");
  const gated = builder.buffer("expert_gated", width, "routed");
  const outputs = builder.buffer("expert_outputs", hiddenSize, "routed");
  addRouter(builder, mlp, logits);
  builder.add({ kind: "route", logits, out: routes, normalize });
  const { gate, up, down } = experts.projections;
  addExperts(builder, mlp, { x: mlp.x, routes, out: gateUp, inWidth: hiddenSize, partWidth: width, parts: [gate, up], parameter: "gate_up_proj" });
  builder.add({ kind: "siluMul", x: gateUp, out: gated });
  addExperts(builder, mlp, { x: gated, routes, out: outputs, inWidth: width, partWidth: hiddenSize, parts: [down], parameter: "down_proj" });
  builder.add({ kind: "combine", x: outputs, routes, out: mlp.hidden });
}

/** In float32 whatever the format: a logit that is rounded may choose another expert. */
function addRouter(builder: ProgramBuilder, { layer, hiddenSize, experts, spelling, x }: SparseMlp, logits: BufferId): void {
  const { numExperts, block } = experts;
  const stored = `model.layers.${layer}.${block}.gate`;
  const path = `model.layers.${layer}.mlp.gate`;
  const module = { path: stored, offset: 0, width: numExperts, own: true };
  builder.add({
    kind: "linear",
    x,
    weight: builder.exactMatrix(`${spelling === "tensor-per-expert" ? stored : path}.weight`, numExperts, hiddenSize),
    bias: null,
    out: logits,
    accumulate: false,
    site: builder.site({
      name: stored,
      layer,
      inWidth: hiddenSize,
      outWidth: numExperts,
      modules: stored === path ? [module] : [module, { ...module, path, own: false }],
    }),
  });
}

interface ExpertProjection {
  readonly x: BufferId;
  readonly routes: BufferId;
  readonly out: BufferId;
  readonly inWidth: number;
  readonly partWidth: number;
  /** Names of the modules that are stacked, in order. */
  readonly parts: readonly string[];
  /** Name of the parameter that holds them, for all experts. */
  readonly parameter: string;
}

function addExperts(builder: ProgramBuilder, mlp: SparseMlp, projection: ExpertProjection): void {
  const { layer, experts, spelling } = mlp;
  const { numExperts, block } = experts;
  const { inWidth, partWidth, parts, x, routes, out } = projection;
  const outWidth = partWidth * parts.length;
  const parameter = `model.layers.${layer}.mlp.experts.${projection.parameter}`;
  const pathOf = (expert: number, name: string): string => `model.layers.${layer}.${block}.experts.${expert}.${name}`;
  const each = Array.from({ length: numExperts }, (_, expert) => expert);
  const stored: WeightPart[] =
    spelling === "parameter-per-layer"
      ? [{ tensor: parameter, rows: numExperts * outWidth, shape: [numExperts, outWidth, inWidth] }]
      : each.flatMap((expert) => parts.map((name) => ({ tensor: `${pathOf(expert, name)}.weight`, rows: partWidth })));
  const sites = each.map((expert): LoraSite => {
    const own = parts.map((name, i): SiteModule => ({ path: pathOf(expert, name), offset: i * partWidth, width: partWidth, own: true }));
    const whole = { path: pathOf(expert, projection.parameter), offset: 0, width: outWidth, own: false };
    const isOwn = own.some(({ path }) => path === whole.path);
    return { name: whole.path, layer, inWidth, outWidth, modules: isOwn ? own : [...own, whole], expert, parameter };
  });
  const [site] = sites.map((one) => builder.site(one));
  builder.add({ kind: "expertLinear", x, routes, weight: builder.expertMatrices(parameter, stored, numExperts, outWidth, inWidth), out, site: site! });
}
