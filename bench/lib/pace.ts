/** How fast a backend takes steps. */
import type { Backend } from "../../src/backend/backend.ts";
import type { Step } from "../../src/core/step.ts";
import { MAX_ROWS_AHEAD } from "../../src/schedule/go-ahead.ts";

export interface StepPace {
  /** From the end of the step before to its own, as JavaScript sees them. */
  readonly wall: number;
  readonly native: number;
}

/**
 * Steps one after the other, each given to the backend while the one before is under way where the scheduler would do so.
 * Milliseconds of each; the first is a start and is not told.
 *
 * @param rows of a step
 */
export async function* pace(backend: Backend, rows: number, step: () => Step): AsyncGenerator<StepPace, never, void> {
  const isAhead = (backend.info.stepsAhead ?? 0) > 0 && rows <= MAX_ROWS_AHEAD;
  let underWay = backend.run(step());
  let from = Number.NaN;
  try {
    for (;;) {
      const next = isAhead ? backend.run(step()) : null;
      const { computeMs } = await underWay;
      const now = performance.now();
      const wall = now - from;
      from = now;
      // Before others are told: who has heard enough must find no step under way that nobody waits for.
      underWay = next ?? backend.run(step());
      if (!Number.isNaN(wall)) yield { wall, native: computeMs };
    }
  } finally {
    await underWay;
  }
}
