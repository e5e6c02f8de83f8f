/** Turns a plan into a step on the backend, and the result into tokens of its sequences. */
import type { Backend } from "../backend/backend.ts";
import type { Clock } from "../core/clock.ts";
import { NativeError, toLorikeetError } from "../core/errors.ts";
import type { SampledToken } from "../core/sampling.ts";
import type { Step, StepSample, StepScore, StepSequence } from "../core/step.ts";
import { picksToken, type PlanEntry, type StepPlan } from "../schedule/compose-step.ts";
import { failure } from "../schedule/retire.ts";
import { appendToken, isScoring, numGenerated, type Sequence } from "../schedule/sequence.ts";

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
   * Runs a step and hands each sequence its token. A sequence that ends gets its `ending`; nothing is retired.
   *
   * @throws {NativeError} `backend_failed`; no sequence has changed then
   */
  async runStep(plan: StepPlan): Promise<void> {
    const result = await this.#backend.run(toStep(plan));
    const numSampled = plan.entries.reduce((sum, entry) => sum + numScores(entry) + (picksToken(entry) ? 1 : 0), 0);
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
      const { sequence } = entry;
      const numScored = numScores(entry);
      sequence.computed = entry.position + entry.numRows;
      if (numScored > 0 && sequence.ending === null) score(sequence, result.sampled.slice(next, next + numScored));
      next += numScored;
      if (!picksToken(entry)) continue;
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

/** Rows whose next token is one of the prompt's and is to be scored; not again for those computed a second time. */
function numScores({ sequence, position, numRows }: PlanEntry): number {
  if (!isScoring(sequence)) return 0;
  return Math.max(0, Math.min(position + numRows, sequence.promptLength - 1) - Math.max(position, sequence.scored));
}

function score(sequence: Sequence, scores: readonly (SampledToken | null)[]): void {
  const finite = scores.filter((token) => token !== null);
  if (finite.length < scores.length) sequence.ending = failure(notFinite());
  sequence.scored += scores.length;
  sequence.output.score?.(finite);
}

/** @complexity O(sequences); tokens are copied one by one or viewed, page tables and adjustments are shared with the records */
export const toStep = (plan: StepPlan): Step => ({ sequences: plan.entries.map(toStepSequence) });

function toStepSequence(entry: PlanEntry): StepSequence {
  const { sequence, slot, position, numRows } = entry;
  // Of a single token a list is cheaper than a view.
  const tokens = numRows === 1 ? [sequence.tokens[position]!] : sequence.tokens.subarray(position, position + numRows);
  const sample = picksToken(entry) ? toSample(sequence) : null;
  const rows = { tokens, position, pages: sequence.pages, slot, sample };
  return isScoring(sequence) ? { ...rows, scores: toScores(entry) } : rows;
}

function toScores(entry: PlanEntry): StepScore[] {
  const { sequence, position } = entry;
  const first = Math.max(position, sequence.scored);
  return Array.from({ length: numScores(entry) }, (_, i) => {
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
  const sample = { sampling, counter: numGenerated(sequence), adjustments: output.adjustments() };
  return allowed === null ? sample : { ...sample, allowed };
}
