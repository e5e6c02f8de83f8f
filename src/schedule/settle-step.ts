/** Closes the books on a finished step. */
import type { StepPlan } from "./compose-step.ts";
import { leavePrefix } from "./prefixes.ts";
import { retire, type Retired } from "./retire.ts";
import type { ScheduleTable } from "./schedule-table.ts";

/** Retires the sequences that ended in the step or were cancelled during it. */
export function settleStep(table: ScheduleTable, plan: StepPlan, nowMs: number): Retired[] {
  const retired: Retired[] = [];
  for (const { sequence } of plan.entries) {
    // It has two entries where its adapter came to act.
    if (!sequence.isInStep) continue;
    sequence.isInStep = false;
    // What a failed sequence has computed may not be numbers.
    if (sequence.ending?.error == null) leavePrefix(table, sequence);
    if (sequence.ending !== null) {
      retired.push(retire(table, sequence, sequence.ending, nowMs));
    }
  }
  return retired;
}
