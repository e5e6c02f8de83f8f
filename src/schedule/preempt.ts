/** Takes pages back from running sequences, which compute them again later. */
import { growTable } from "../kv/page-table.ts";
import { joinQueue, leaveRunning } from "./lanes.ts";
import type { AdapterGroup, ScheduleTable } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

/**
 * Sends a running sequence back to the head of its queue.
 *
 * Its tokens stay, so it goes on where it was once they are computed again: the sampling counter is the
 * number of tokens generated, and does not notice.
 */
export function preempt(table: ScheduleTable, sequence: Sequence): void {
  leaveRunning(table, sequence);
  table.pool.release(sequence.pages);
  sequence.computed = 0;
  sequence.numPreemptions++;
  joinQueue(table, sequence, true);
  table.counters.preemptions++;
}

/** Preempts all of a group, the latest started first, so that its queue keeps the order of arrival. */
export function preemptGroup(table: ScheduleTable, group: AdapterGroup): void {
  for (const sequence of table.running.toReversed()) {
    if (sequence.adapter === group.adapter) preempt(table, sequence);
  }
}

/**
 * Gives a running sequence pages for `numPositions` positions, preempting the latest started ones while
 * too few are free.
 *
 * The earliest started sequence is never a victim of another, and no sequence is admitted that the whole
 * pool could not hold; so one sequence always goes on to its end.
 *
 * @returns false when the sequence was itself the latest started, and is preempted
 */
export function reservePages(
  table: ScheduleTable,
  sequence: Sequence,
  numPositions: number,
): boolean {
  while (!growTable(table.pool, sequence.pages, numPositions)) {
    const victim = table.running.at(-1) ?? sequence;
    preempt(table, victim);
    if (victim === sequence) return false;
  }
  return true;
}
