/** What happens to the schedule before a step, and what others have to know of it. */
import { composeStep, type StepPlan } from "../../schedule/compose-step.ts";
import { changeLeases, type LeaseChange } from "../../schedule/leases.ts";
import { expire, type Retired } from "../../schedule/retire.ts";
import type { ScheduleTable } from "../../schedule/schedule-table.ts";
import { turnOver } from "../../schedule/turn-over.ts";
import type { RequestSchedulerFact } from "./request-scheduler.events.ts";

export interface Composed {
  /** Without entries when nothing can run. */
  readonly plan: StepPlan;
  readonly facts: readonly RequestSchedulerFact[];
}

export function composeNext(table: ScheduleTable, nowMs: number): Composed {
  if (table.numUnderWay === 0) table.wantsPause = false;
  const ended = expire(table, nowMs).map(endedFact);
  turnOver(table);
  const facts = [...ended, ...changeLeases(table).map(leaseFact)];
  return { plan: composeStep(table, nowMs), facts };
}

export const leaseFact = (change: LeaseChange): RequestSchedulerFact => ({
  type: change.kind === "wanted" ? "adapter.wanted" : "adapter.released",
  adapterId: change.adapterId,
  leaseNumber: change.leaseNumber,
});

export const endedFact = ({ sequence, finish }: Retired): RequestSchedulerFact => ({
  type: "request.ended",
  requestId: sequence.id,
  adapterId: sequence.adapter,
  tenant: sequence.tenant,
  hasRun: sequence.startedMs !== null,
  finish,
});
