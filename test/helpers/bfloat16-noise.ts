/**
 * How far answers in bfloat16 may lie from the same model in float32.
 *
 * The rounding that a device does is done here in float64 arithmetic, at the same places, along the reference's own
 * tokens. A device sums in other orders, so its errors are other ones of the same size: `BOUND_FACTOR` times the largest
 * one found here is what a device is held to.
 */
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import type { Program } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";
import { type ChooseExperts, logSoftmax, ReferenceExecutor } from "./reference-executor.ts";

export const BOUND_FACTOR = 4;
/** Alternatives per step that are compared. */
const NUM_TOP = 20;

export interface ReferenceStep {
  /** Of every token, in float64. */
  readonly logprobs: Float64Array;
  readonly best: number;
  /** Between the best two log-probabilities. */
  readonly margin: number;
}

export interface Reference {
  /** One for each token of the continuation, each after all before it. */
  readonly steps: readonly ReferenceStep[];
  /** For log-probabilities and for margins. */
  readonly bound: number;
  readonly routes: RouteReference;
}

/** How well the routers' choices are told by their logits in float64. */
export interface RouteReference {
  /** Of every row in every layer with experts: how much larger the least logit chosen is than the largest one left. */
  readonly margins: readonly number[];
  /** For margins: a choice whose margin lies below it in size is not decided, and one whose margin lies below minus it is wrong. */
  readonly bound: number;
}

/** @param choose what a device's routers chose; those of float64 arithmetic when left out, in both precisions */
export function referenceOf(
  program: Program,
  weights: WeightSource,
  adapter: AdapterWeights | null,
  prompt: readonly number[],
  continuation: readonly number[],
  activeFrom = 0,
  choose: ChooseExperts = () => undefined,
): Reference {
  const exact = new ReferenceExecutor(program, weights);
  const rounded = new ReferenceExecutor(program, weights, "bfloat16");
  const routes = new Routes(program.routing?.topK ?? 0, choose);
  let noise = 0;
  const steps = continuation.map((_, i) => {
    const tokens = [...prompt, ...continuation.slice(0, i)];
    const step = referenceStep(exact.logits(tokens, adapter, activeFrom, routes.exact));
    const other = logSoftmax(rounded.logits(tokens, adapter, activeFrom, routes.rounded));
    const top = byLikelihood(step.logprobs).slice(0, NUM_TOP);
    const margin = other[top[0]!]! - other[top[1]!]!;
    noise = Math.max(noise, Math.abs(margin - step.margin), ...top.map((id) => Math.abs(other[id]! - step.logprobs[id]!)));
    return step;
  });
  return { steps, bound: BOUND_FACTOR * noise, routes: { margins: [...routes.margins.values()], bound: BOUND_FACTOR * routes.noise } };
}

/** Has both precisions take the same experts, since another expert is another answer, and compares what led to them. */
class Routes {
  readonly #topK: number;
  readonly #choose: ChooseExperts;
  readonly #taken = new Map<string, { readonly logits: readonly number[]; readonly experts: readonly number[] }>();
  readonly margins = new Map<string, number>();
  noise = 0;

  constructor(topK: number, choose: ChooseExperts) {
    this.#topK = topK;
    this.#choose = choose;
  }

  readonly exact: ChooseExperts = (layer, row, logits) => {
    const order = [...logits.keys()].sort((one, other) => logits[other]! - logits[one]!);
    const experts = this.#choose(layer, row, logits) ?? order.slice(0, this.#topK);
    const left = order.find((expert) => !experts.includes(expert));
    if (left !== undefined) this.margins.set(`${layer} ${row}`, Math.min(...experts.map((expert) => logits[expert]!)) - logits[left]!);
    this.#taken.set(`${layer} ${row}`, { logits, experts });
    return experts;
  };

  readonly rounded: ChooseExperts = (layer, row, logits) => {
    const taken = this.#taken.get(`${layer} ${row}`)!;
    this.noise = Math.max(this.noise, ...logits.map((logit, i) => Math.abs(logit - taken.logits[i]!)));
    return taken.experts;
  };
}

export function referenceStep(logits: Float64Array): ReferenceStep {
  const logprobs = logSoftmax(logits);
  const [best, second] = byLikelihood(logprobs);
  return { logprobs, best: best!, margin: logprobs[best!]! - logprobs[second!]! };
}

const byLikelihood = (logprobs: Float64Array): number[] => [...logprobs.keys()].sort((one, other) => logprobs[other]! - logprobs[one]!);
