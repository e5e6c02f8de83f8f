/** Closes the books on a finished step. */
import type { StepPlan } from "./compose-step.ts";
import { leavePrefix } from "./prefixes.ts";
import { release, retire, type Retired } from "./retire.ts";
import type { ScheduleTable } from "./schedule-table.ts";

/** Retires the sequences that ended in the step, and lets go of those that it was the last to name. */
export function settleStep(table: ScheduleTable, plan: StepPlan, nowMs: number): Retired[] {
  const retired: Retired[] = [];
  table.numUnderWay--;
  for (const { sequence } of plan.entries) {
    sequence.numUnderWay--;
    if (sequence.phase === "running") {
      // What a failed sequence has computed may not be numbers.
      if (sequence.ending?.error == null) leavePrefix(table, sequence);
      if (sequence.ending !== null) retired.push(retire(table, sequence, sequence.ending, nowMs));
    } else if (sequence.phase === "leaving" && sequence.numUnderWay === 0) {
      // Its adapter may have been unloaded since, so nothing more is asked of that.
      release(table, sequence);
    }
  }
  return retired;
}
