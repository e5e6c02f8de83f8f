/**
 * Who starts next: first come, first served within an adapter, the least served adapter between them.
 *
 * Aged requests go first, oldest first, and while one of them lacks pages nobody younger starts: so the
 * next capacity that comes free is its own.
 */
import { isAged, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

const canStart = (table: ScheduleTable, group: AdapterGroup): boolean =>
  group.waiting.length > 0 &&
  group.lease === "held" &&
  !group.isDraining &&
  group.skippedAt !== table.numComposed;

/** Whether any request could start if there were room. */
export function hasStartable(table: ScheduleTable): boolean {
  for (const group of table.groups.values()) {
    if (canStart(table, group)) return true;
  }
  return false;
}

/** The head of queue that is to start next; `undefined` when none may. */
export function nextToStart(table: ScheduleTable): Sequence | undefined {
  let best: Sequence | undefined;
  let bestIsAged = false;
  let bestServed = Infinity;
  for (const group of table.groups.values()) {
    if (!canStart(table, group)) continue;
    const head = group.waiting[0]!;
    const headIsAged = isAged(table, head);
    const isBetter =
      best === undefined ||
      (headIsAged !== bestIsAged
        ? headIsAged
        : headIsAged || group.servedRows === bestServed
          ? head.arrival < best.arrival
          : group.servedRows < bestServed);
    if (!isBetter) continue;
    best = head;
    bestIsAged = headIsAged;
    bestServed = group.servedRows;
  }
  return best;
}
