import { type EventObject, fromCallback } from "xstate";
import type { Clock } from "../../core/clock.ts";
import type { Engine } from "../../engine/engine.ts";
import type { StepPlan } from "../../schedule/compose-step.ts";
import type { ScheduleTable } from "../../schedule/schedule-table.ts";
import { settleStep } from "../../schedule/settle-step.ts";
import { composeNext, endedFact } from "./compose-next.ts";
import type { RequestSchedulerFact } from "./request-scheduler.events.ts";

export interface RunStepsInput {
  readonly table: ScheduleTable;
  readonly engine: Pick<Engine, "runStep">;
  readonly clock: Clock;
  readonly yieldTurn: () => Promise<void>;
  readonly onStepTime: (elapsedMs: number) => void;
  /** The first step, with entries, and when it was composed. */
  readonly plan: StepPlan;
  readonly composedMs: number;
}

export type StepsEvent =
  /** Others have to know something; steps go on. */
  | { readonly type: "steps.told"; readonly facts: readonly RequestSchedulerFact[] }
  /** Nothing can run any more. */
  | { readonly type: "steps.over"; readonly facts: readonly RequestSchedulerFact[] }
  | { readonly type: "steps.failed"; readonly thrown: unknown; readonly plan: StepPlan };

/**
 * Runs one step after the other as long as anything can run. A step in which nothing ends and no lease changes sends no
 * event: on a thread that slept while the device computed, a transition costs as much as a hundred rows.
 *
 * While a step runs the event loop turns at least once: readers take the tokens of the step before, and new requests wait
 * for the step after. Between two steps it does not turn, for then the device has nothing to do.
 */
export const runSteps = fromCallback<EventObject, RunStepsInput>(({ input, sendBack }) => {
  const { table, engine, clock, yieldTurn, onStepTime } = input;
  const tell = (event: StepsEvent): void => sendBack(event);
  let { plan, composedMs } = input;
  let isStopped = false;

  const run = async (): Promise<void> => {
    while (!isStopped) {
      await Promise.all([engine.runStep(plan), yieldTurn()]);
      if (isStopped) return;
      const nowMs = clock.nowMs();
      const ended = settleStep(table, plan, nowMs).map(endedFact);
      // The first plan stays in this actor's input as long as steps go on; the sequences in it must not.
      plan.entries = [];
      onStepTime(nowMs - composedMs);
      const next = composeNext(table, clock.nowMs());
      ({ plan, composedMs } = next);
      const facts = [...ended, ...next.facts];
      if (plan.entries.length === 0) return tell({ type: "steps.over", facts });
      if (facts.length > 0) tell({ type: "steps.told", facts });
    }
  };

  run().catch((thrown: unknown) => tell({ type: "steps.failed", thrown, plan }));
  return () => {
    isStopped = true;
  };
});
