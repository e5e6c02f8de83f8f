/** Turns a plan into a step on the backend, and the result into tokens of its sequences. */
import type { Backend } from "../backend/backend.ts";
import type { Clock } from "../core/clock.ts";
import { NativeError, toLorikeetError } from "../core/errors.ts";
import type { SampledToken } from "../core/sampling.ts";
import { awaited, type Step, type StepResult, type StepSample, type StepScore, type StepSequence } from "../core/step.ts";
import type { PlanEntry, StepPlan } from "../schedule/compose-step.ts";
import { failure } from "../schedule/retire.ts";
import { appendToken, numGenerated, type Sequence } from "../schedule/sequence.ts";

/** Only grow. */
export interface EngineCounters {
  steps: number;
  /** Prompt tokens of sequences that reached their first token. */
  promptTokens: number;
  generatedTokens: number;
  /** Milliseconds inside the backend's native code. */
  computeMs: number;
}

export class Engine {
  readonly counters: EngineCounters = {
    steps: 0,
    promptTokens: 0,
    generatedTokens: 0,
    computeMs: 0,
  };
  readonly #backend: Pick<Backend, "run">;
  readonly #clock: Clock;

  constructor(backend: Pick<Backend, "run">, clock: Clock) {
    this.#backend = backend;
    this.#clock = clock;
  }

  /**
   * Runs the step that was composed last.
   *
   * @throws {NativeError} `backend_failed`
   */
  run(plan: StepPlan): Promise<StepResult> {
    return this.#backend.run(toStep(plan));
  }

  /**
   * Hands each sequence of a step its token. A sequence that ends gets its `ending`; nothing is retired.
   *
   * @throws {NativeError} `backend_failed` for a result of another step; no sequence has changed then
   */
  take(plan: StepPlan, result: StepResult): void {
    const numSampled = plan.entries.reduce((sum, { numScores, picksToken }) => sum + numScores + (picksToken ? 1 : 0), 0);
    if (result.sampled.length !== numSampled) {
      throw new NativeError(
        "backend_failed",
        `the backend returned ${result.sampled.length} tokens for ${numSampled} sampled rows`,
      );
    }
    this.counters.steps++;
    this.counters.computeMs += result.computeMs;
    const nowMs = this.#clock.nowMs();
    let next = 0;
    for (const entry of plan.entries) {
      const { sequence, numScores } = entry;
      sequence.computed = entry.position + entry.numRows;
      if (numScores > 0 && sequence.ending === null) score(sequence, result.sampled.slice(next, next + numScores));
      next += numScores;
      if (!entry.picksToken) continue;
      sequence.numAwaited--;
      const token = result.sampled[next++]!;
      if (sequence.ending === null) this.#apply(sequence, token, nowMs);
    }
  }

  #apply(sequence: Sequence, token: SampledToken | null, nowMs: number): void {
    if (token === null) {
      sequence.ending = failure(notFinite());
      return;
    }
    appendToken(sequence, token.id);
    this.counters.generatedTokens++;
    if (sequence.firstTokenMs === null) {
      sequence.firstTokenMs = nowMs;
      this.counters.promptTokens += sequence.promptLength;
    }
    try {
      sequence.ending = sequence.output.accept(token);
    } catch (thrown) {
      // One request's text must not stop the step of the others.
      sequence.ending = failure(toLorikeetError(thrown));
    }
  }
}

function score(sequence: Sequence, scores: readonly (SampledToken | null)[]): void {
  const finite = scores.filter((token) => token !== null);
  if (finite.length < scores.length) sequence.ending = failure(notFinite());
  sequence.scored += scores.length;
  sequence.output.score?.(finite);
}

/** Of the plan composed last. @complexity O(sequences); tokens are copied one by one or viewed, page tables and adjustments are shared with the records */
export const toStep = (plan: StepPlan): Step => ({ sequences: plan.entries.map(toStepSequence) });

function toStepSequence(entry: PlanEntry): StepSequence {
  const { sequence, slot, position } = entry;
  const sample = entry.picksToken ? toSample(sequence) : null;
  const rows = { tokens: tokensOf(entry), position, pages: sequence.pages, slot, sample };
  return entry.numScores > 0 ? { ...rows, scores: toScores(entry) } : rows;
}

function tokensOf({ sequence, position, numRows, awaitedSample }: PlanEntry): ArrayLike<number> {
  if (awaitedSample !== null) return [awaited(awaitedSample)];
  // Of a single token a list is cheaper than a view.
  return numRows === 1 ? [sequence.tokens[position]!] : sequence.tokens.subarray(position, position + numRows);
}

function toScores(entry: PlanEntry): StepScore[] {
  const { sequence, position } = entry;
  const first = Math.max(position, sequence.scored);
  return Array.from({ length: entry.numScores }, (_, i) => {
    // A bias that no logit outweighs: the sampler then picks the token that is there, and reports it.
    const adjustments = [{ token: sequence.tokens[first + i + 1]!, generatedCount: 0, seen: false, bias: 1e30 }];
    const sampling = { ...sequence.sampling, temperature: 0, repetitionPenalty: 1, presencePenalty: 0, frequencyPenalty: 0, logprobs: sequence.sampling.promptLogprobs ?? 0 };
    return { row: first + i - position, sample: { sampling, counter: 0, adjustments } };
  });
}

const notFinite = (): NativeError =>
  new NativeError("non_finite_logits", "the model's output for this request was not a finite number; check the adapter's weights");

function toSample(sequence: Sequence): StepSample {
  const { sampling, output } = sequence;
  const allowed = output.allowed ?? null;
  // Its own is the last of those awaited.
  const counter = numGenerated(sequence) + sequence.numAwaited - 1;
  const sample = { sampling, counter, adjustments: output.adjustments() };
  return allowed === null ? sample : { ...sample, allowed };
}
