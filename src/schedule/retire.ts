/**
 * Ends sequences. The stream ends at once; pages, place and lease are given back when no step under way names the
 * sequence any more. Both happen exactly once.
 */
import type { LorikeetError } from "../core/errors.ts";
import type { RequestId } from "../core/ids.ts";
import type { Finish } from "../core/request.ts";
import { dropIdleLane, leaveQueue, leaveRunning } from "./lanes.ts";
import type { ScheduleTable } from "./schedule-table.ts";
import { finishOf, type Ending, type Sequence } from "./sequence.ts";

export const endingOf = (reason: "cancelled" | "timeout" | "shutdown" | "length"): Ending => ({
  reason,
  stopReason: null,
  error: null,
});

export const failure = (error: LorikeetError): Ending => ({
  reason: "error",
  stopReason: null,
  error,
});

/** A sequence that has ended, for those who count. */
export interface Retired {
  readonly sequence: Sequence;
  readonly finish: Finish;
}

/**
 * Ends a sequence that waits or runs.
 *
 * `ending` of the record wins over the argument: the first reason to end is the one told.
 */
export function retire(
  table: ScheduleTable,
  sequence: Sequence,
  ending: Ending,
  nowMs: number,
): Retired {
  table.sequences.delete(sequence.id);
  sequence.ending ??= ending;
  if (sequence.numUnderWay > 0) sequence.phase = "leaving";
  else release(table, sequence);
  const finish = finishOf(sequence, sequence.ending, nowMs);
  table.counters.finished[finish.reason]++;
  sequence.output.finish(finish);
  return { sequence, finish };
}

/** Gives back what a sequence that has ended, or is about to, still has. No step names it. */
export function release(table: ScheduleTable, sequence: Sequence): void {
  if (sequence.phase === "waiting") leaveQueue(table, sequence);
  else leaveRunning(table, sequence);
  table.pool.release(sequence.pages);
  sequence.phase = "ended";
  dropIdleLane(table, sequence);
}

/** @returns what was retired; nothing for an unknown id, which has ended already */
export function endSequence(
  table: ScheduleTable,
  id: RequestId,
  ending: Ending,
  nowMs: number,
): Retired[] {
  const sequence = table.sequences.get(id);
  if (sequence === undefined) return [];
  return [retire(table, sequence, ending, nowMs)];
}

/** Ends everything. */
export function endAll(table: ScheduleTable, ending: Ending, nowMs: number): Retired[] {
  return [...table.sequences.keys()].flatMap((id) => endSequence(table, id, ending, nowMs));
}

/** Ends what is past its deadline; looks at the sequences only when one may be. */
export function expire(table: ScheduleTable, nowMs: number): Retired[] {
  if (nowMs < table.nextDeadlineMs) return [];
  const retired: Retired[] = [];
  let nextDeadlineMs = Infinity;
  for (const sequence of table.sequences.values()) {
    if (sequence.deadlineMs <= nowMs) {
      retired.push(...endSequence(table, sequence.id, endingOf("timeout"), nowMs));
    } else {
      nextDeadlineMs = Math.min(nextDeadlineMs, sequence.deadlineMs);
    }
  }
  table.nextDeadlineMs = nextDeadlineMs;
  return retired;
}
