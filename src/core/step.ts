/**
 * One forward pass as plain records: what the engine asks of a backend, and what comes back.
 *
 * `encodeStep` in `step-block.ts` turns a `Step` into the words that native code reads.
 */
import type { SampledToken, Sampling } from "./sampling.ts";
import type { PageId, SlotId } from "./ids.ts";

/**
 * Consecutive positions of one sequence, all with one slot. Two of a step may be of the same sequence, one behind the other
 * on the same pages: keys and values of all rows are written before any row attends.
 */
export interface StepSequence {
  /** Tokens to compute, at least one; some may be `awaited`. */
  readonly tokens: ArrayLike<number>;
  /** Position of the first of them, from 0. */
  readonly position: number;
  /** Pages that hold positions `0 .. position + tokens.length - 1`, in order; more of them may follow. */
  readonly pages: readonly PageId[];
  /** `NO_SLOT` for the base model. */
  readonly slot: SlotId;
  /** Present when the last row's logits are wanted: a decode row, or the end of a prompt. */
  readonly sample: StepSample | null;
  /** Further rows whose logits are wanted, ascending, none of them the last. Their results come before `sample`'s. */
  readonly scores?: readonly StepScore[];
}

/**
 * In place of a token that the step before this one picks: what its sample of that index, from 0, will be. Only where a
 * backend takes steps ahead.
 */
export const awaited = (sample: number): number => ~sample;

/** How likely a row's next token is, which is known already. */
export interface StepScore {
  /** Index in `tokens`. */
  readonly row: number;
  readonly sample: StepSample;
}

export interface StepSample {
  readonly sampling: Sampling;
  /** Tokens generated so far: 0 for the first. */
  readonly counter: number;
  /** Tokens whose logits change before sampling; empty in the common case. */
  readonly adjustments: readonly TokenAdjustment[];
  /** One bit per token, lowest bit first: those that may be picked. Left out when all may. */
  readonly allowed?: Int32Array;
}

export interface TokenAdjustment {
  readonly token: number;
  readonly generatedCount: number;
  readonly seen: boolean;
  readonly bias: number;
}

/** Sequences sorted by slot, so that rows of one adapter are neighbours. */
export interface Step {
  readonly sequences: readonly StepSequence[];
}

export interface StepResult {
  /** One entry per sample and score, in step order; `null` where logits were not finite. */
  readonly sampled: readonly (SampledToken | null)[];
  /** Time inside native code. */
  readonly computeMs: number;
}
