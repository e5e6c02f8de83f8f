/**
 * Who starts next: by priority, then first come, first served within an adapter, the least served adapter between them.
 *
 * Adapters that have aged without service go first, the longest waiting of them, and while it lacks pages
 * nobody else starts: so the next capacity that comes free is its own.
 */
import { isAged, waitsSince, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import { priorityOf } from "./sequence.ts";

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

/** The group whose head of queue is to start next; `undefined` when none may. */
export function nextToStart(table: ScheduleTable): AdapterGroup | undefined {
  let best: AdapterGroup | undefined;
  for (const group of table.groups.values()) {
    if (!canStart(table, group)) continue;
    if (best === undefined || goesBefore(table, group, best)) best = group;
  }
  return best;
}

function goesBefore(table: ScheduleTable, a: AdapterGroup, b: AdapterGroup): boolean {
  const aIsAged = isAged(table, a);
  if (aIsAged !== isAged(table, b)) return aIsAged;
  const byPriority = priorityOf(a.waiting[0]!) - priorityOf(b.waiting[0]!);
  if (!aIsAged && byPriority !== 0) return byPriority < 0;
  const difference = aIsAged ? waitsSince(a) - waitsSince(b) : a.servedRows - b.servedRows;
  if (difference !== 0) return difference < 0;
  return a.waiting[0]!.arrival < b.waiting[0]!.arrival;
}
