/** Ends sequences: pages, place and stream are given back in one go, exactly once. */
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
 * Ends a sequence that no step names.
 *
 * `ending` of the record wins over the argument: the first reason to end is the one told.
 */
export function retire(
  table: ScheduleTable,
  sequence: Sequence,
  ending: Ending,
  nowMs: number,
): Retired {
  if (sequence.phase === "running") leaveRunning(table, sequence);
  else leaveQueue(table, sequence);
  table.pool.release(sequence.pages);
  table.sequences.delete(sequence.id);
  sequence.phase = "ended";
  sequence.ending ??= ending;
  dropIdleLane(table, sequence);
  const finish = finishOf(sequence, sequence.ending, nowMs);
  table.counters.finished[finish.reason]++;
  sequence.output.finish(finish);
  return { sequence, finish };
}

/**
 * Ends a sequence now, or when the step that names it is over.
 *
 * @returns what was retired at once; nothing for an unknown id, which has ended already
 */
export function endSequence(
  table: ScheduleTable,
  id: RequestId,
  ending: Ending,
  nowMs: number,
): Retired[] {
  const sequence = table.sequences.get(id);
  if (sequence === undefined) return [];
  if (sequence.isInStep) {
    sequence.ending ??= ending;
    return [];
  }
  return [retire(table, sequence, ending, nowMs)];
}

/** Ends everything, sequences of the step under way with it. */
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
