import { type EventObject, fromCallback } from "xstate";
import type { Clock } from "../../core/clock.ts";
import type { StepResult } from "../../core/step.ts";
import type { Engine } from "../../engine/engine.ts";
import type { StepPlan } from "../../schedule/compose-step.ts";
import { mayGoAhead } from "../../schedule/go-ahead.ts";
import type { ScheduleTable } from "../../schedule/schedule-table.ts";
import { settleStep } from "../../schedule/settle-step.ts";
import { composeNext, endedFact } from "./compose-next.ts";
import type { RequestSchedulerFact } from "./request-scheduler.events.ts";

export interface RunStepsInput {
  readonly table: ScheduleTable;
  readonly engine: Pick<Engine, "run" | "take">;
  /** Steps that the engine takes while another is under way. */
  readonly stepsAhead: 0 | 1;
  readonly clock: Clock;
  /** Resolves in a later turn of the event loop. */
  readonly yieldTurn: () => Promise<void>;
  /** Hears of the time that each step took from its composition on, or from the end of the step before, in milliseconds. */
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
  | { readonly type: "steps.failed"; readonly thrown: unknown; readonly underWay: readonly StepPlan[] };

interface StepUnderWay {
  readonly plan: StepPlan;
  readonly composedMs: number;
  readonly result: Promise<StepResult>;
}

/**
 * Runs one step after the other as long as anything can run. A step in which nothing ends and no lease changes sends no
 * event: on a thread that slept while the device computed, a transition costs as much as a hundred rows.
 *
 * Where the engine takes steps ahead, the next one is with it before the result of the one under way is, so that the device does not
 * wait for this thread (`mayGoAhead` says when).
 *
 * While a step runs the event loop turns at least once: readers take the tokens of the step before, and new requests wait
 * for the step after. Between two steps it does not turn, for then the device may have nothing to do.
 */
export const runSteps = fromCallback<EventObject, RunStepsInput>(({ input, sendBack }) => {
  const { table, engine, stepsAhead, clock, yieldTurn, onStepTime } = input;
  const tell = (event: StepsEvent): void => sendBack(event);
  const tellFacts = (facts: readonly RequestSchedulerFact[]): void => {
    if (facts.length > 0) tell({ type: "steps.told", facts });
  };
  const underWay: StepUnderWay[] = [];
  let isStopped = false;

  const start = (plan: StepPlan, composedMs: number): void => {
    const step = { plan, composedMs, result: engine.run(plan) };
    // Awaited in turn: until then a failure must not count as nobody's.
    step.result.catch(() => undefined);
    underWay.push(step);
  };
  /** @returns what others have to know */
  const startNext = (): readonly RequestSchedulerFact[] => {
    const nowMs = clock.nowMs();
    const { plan, facts } = composeNext(table, nowMs);
    if (plan.entries.length > 0) start(plan, nowMs);
    return facts;
  };

  const run = async (): Promise<void> => {
    start(input.plan, input.composedMs);
    let settledMs = 0;
    for (let step = underWay[0]; step !== undefined; step = underWay[0]) {
      if (underWay.length <= stepsAhead && mayGoAhead(table, step.plan)) tellFacts(startNext());
      const [result] = await Promise.all([step.result, yieldTurn()]);
      if (isStopped) return;
      engine.take(step.plan, result);
      underWay.shift();
      const nowMs = clock.nowMs();
      const ended = settleStep(table, step.plan, nowMs).map(endedFact);
      // The first plan stays in this actor's input as long as steps go on; the sequences in it must not.
      step.plan.entries = [];
      onStepTime(nowMs - Math.max(step.composedMs, settledMs));
      settledMs = nowMs;
      const facts = underWay.length > 0 ? ended : [...ended, ...startNext()];
      if (underWay.length === 0) return tell({ type: "steps.over", facts });
      tellFacts(facts);
    }
  };

  run().catch((thrown: unknown) => tell({ type: "steps.failed", thrown, underWay: underWay.map(({ plan }) => plan) }));
  return () => {
    isStopped = true;
  };
});
