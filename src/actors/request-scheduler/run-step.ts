import { fromPromise } from "xstate";
import type { Engine } from "../../engine/engine.ts";
import type { StepPlan } from "../../schedule/compose-step.ts";

export interface RunStepInput {
  readonly engine: Pick<Engine, "runStep">;
  readonly plan: StepPlan;
  readonly yieldTurn: () => Promise<void>;
}

/** Runs one step, then lets the event loop turn: readers take their tokens, new requests join the next step. */
export const runStep = fromPromise<void, RunStepInput>(async ({ input }) => {
  await input.engine.runStep(input.plan);
  await input.yieldTurn();
});
