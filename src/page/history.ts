/** The last minutes as series for the charts: rates from counters that only grow. */
import type { LiveState } from "./live-state.ts";

export const MAX_SAMPLES = 360;

export interface Sample {
  /** Unix seconds. */
  readonly time: number;
  readonly generatedPerS: number | null;
  readonly promptPerS: number | null;
  readonly running: number;
  readonly waiting: number;
  /** Milliseconds; `null` where nothing came. */
  readonly firstP50: number | null;
  readonly firstP95: number | null;
  readonly nextP50: number | null;
  readonly nextP95: number | null;
}

export interface History {
  readonly latest: LiveState;
  readonly samples: readonly Sample[];
}

/** A server that was started anew counts from zero, and so does its history. */
export function extend(history: History | null, state: LiveState): History {
  const previous = history?.latest ?? null;
  const isNew = previous === null || state.steps < previous.steps || state.time <= previous.time;
  const seconds = isNew ? 0 : (state.time - previous.time) / 1000;
  const rate = (now: number, before: number): number | null => (isNew ? null : (now - before) / seconds);
  const sample: Sample = {
    time: state.time / 1000,
    generatedPerS: rate(state.tokens.generated, previous?.tokens.generated ?? 0),
    promptPerS: rate(state.tokens.prompt, previous?.tokens.prompt ?? 0),
    running: state.requests.running,
    waiting: state.requests.waiting,
    firstP50: state.firstToken?.p50 ?? null,
    firstP95: state.firstToken?.p95 ?? null,
    nextP50: state.nextToken?.p50 ?? null,
    nextP95: state.nextToken?.p95 ?? null,
  };
  const earlier = isNew ? [] : (history?.samples ?? []);
  return { latest: state, samples: [...earlier, sample].slice(-MAX_SAMPLES) };
}
