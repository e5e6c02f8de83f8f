/**
 * Takes pages back from running sequences, which compute them again later.
 *
 * What a step under way names stays as it is. Where such a sequence would have to go, the table asks for a pause: no step is
 * composed ahead until none is under way.
 */
import { growTable } from "../kv/page-table.ts";
import { joinQueue, leaveRunning } from "./lanes.ts";
import type { AdapterGroup, ScheduleTable } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

/**
 * Sends a running sequence back to the head of its queue, unless a step under way names it.
 *
 * Its tokens stay, so it goes on where it was once they are computed again: the sampling counter is the
 * number of tokens generated, and does not notice.
 *
 * @returns whether it was preempted; else a pause is asked for
 */
export function preempt(table: ScheduleTable, sequence: Sequence): boolean {
  if (sequence.numUnderWay > 0) {
    table.wantsPause = true;
    return false;
  }
  leaveRunning(table, sequence);
  table.pool.release(sequence.pages);
  sequence.computed = 0;
  sequence.scheduled = 0;
  sequence.numPreemptions++;
  joinQueue(table, sequence, true);
  table.counters.preemptions++;
  return true;
}

/** Preempts all of a group, the latest started first, so that its queue keeps the order of arrival; none as long as one cannot be. */
export function preemptGroup(table: ScheduleTable, group: AdapterGroup): void {
  const sequences = table.running.filter(({ adapter }) => adapter === group.adapter);
  const underWay = sequences.find(({ numUnderWay }) => numUnderWay > 0);
  for (const sequence of underWay === undefined ? sequences.toReversed() : [underWay]) preempt(table, sequence);
}

/**
 * Gives a running sequence pages for `numPositions` positions, preempting the latest started ones while
 * too few are free.
 *
 * The earliest started sequence is never a victim of another, and no sequence is admitted that the whole
 * pool could not hold; so one sequence always goes on to its end.
 *
 * @returns false when the sequence was itself the latest started, and is preempted; or when it has to wait for a pause
 */
export function reservePages(
  table: ScheduleTable,
  sequence: Sequence,
  numPositions: number,
): boolean {
  while (!growTable(table.pool, sequence.pages, numPositions)) {
    const victim = table.running.at(-1) ?? sequence;
    if (!preempt(table, victim) || victim === sequence) return false;
  }
  return true;
}
