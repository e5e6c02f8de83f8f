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
import { logSoftmax, ReferenceExecutor } from "./reference-executor.ts";

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
}

export function referenceOf(
  program: Program,
  weights: WeightSource,
  adapter: AdapterWeights | null,
  prompt: readonly number[],
  continuation: readonly number[],
  activeFrom = 0,
): Reference {
  const exact = new ReferenceExecutor(program, weights);
  const rounded = new ReferenceExecutor(program, weights, "bfloat16");
  let noise = 0;
  const steps = continuation.map((_, i) => {
    const tokens = [...prompt, ...continuation.slice(0, i)];
    const step = referenceStep(exact.logits(tokens, adapter, activeFrom));
    const other = logSoftmax(rounded.logits(tokens, adapter, activeFrom));
    const top = byLikelihood(step.logprobs).slice(0, NUM_TOP);
    const margin = other[top[0]!]! - other[top[1]!]!;
    noise = Math.max(noise, Math.abs(margin - step.margin), ...top.map((id) => Math.abs(other[id]! - step.logprobs[id]!)));
    return step;
  });
  return { steps, bound: BOUND_FACTOR * noise };
}

export function referenceStep(logits: Float64Array): ReferenceStep {
  const logprobs = logSoftmax(logits);
  const [best, second] = byLikelihood(logprobs);
  return { logprobs, best: best!, margin: logprobs[best!]! - logprobs[second!]! };
}

const byLikelihood = (logprobs: Float64Array): number[] => [...logprobs.keys()].sort((one, other) => logprobs[other]! - logprobs[one]!);
