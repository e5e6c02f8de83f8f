import { fromPromise } from "xstate";
import type { Engine } from "../../engine/engine.ts";
import type { StepPlan } from "../../schedule/compose-step.ts";

export interface RunStepInput {
  readonly engine: Pick<Engine, "runStep">;
  readonly plan: StepPlan;
  readonly yieldTurn: () => Promise<void>;
}

/**
 * Runs one step, while the event loop turns at least once: readers take the tokens of the step before, and new requests
 * wait for the step after. Between two steps it does not turn, for then the device has nothing to do.
 */
export const runStep = fromPromise<void, RunStepInput>(async ({ input }) => {
  await Promise.all([input.engine.runStep(input.plan), input.yieldTurn()]);
});
