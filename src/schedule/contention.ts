/** How unevenly those who wait have been served: what an operator looks at when somebody complains. */
import type { ScheduleTable } from "./schedule-table.ts";

export interface Contention {
  /** Adapters, the base model among them, that have requests waiting. */
  readonly numWaitingGroups: number;
  /** Age of the request that has waited longest; 0 where none waits. */
  readonly longestWaitMs: number;
  /** Most rows that one of those has been served ahead of another; 0 below two of them. */
  readonly servedGapRows: number;
}

/** @complexity O(waiting requests) */
export function contentionOf({ groups }: Pick<ScheduleTable, "groups">, nowMs: number): Contention {
  let numWaitingGroups = 0;
  let oldestMs = nowMs;
  let least = Infinity;
  let most = -Infinity;
  for (const { waiting, servedRows } of groups.values()) {
    if (waiting.length === 0) continue;
    numWaitingGroups++;
    for (const { submittedMs } of waiting) oldestMs = Math.min(oldestMs, submittedMs);
    least = Math.min(least, servedRows);
    most = Math.max(most, servedRows);
  }
  return { numWaitingGroups, longestWaitMs: nowMs - oldestMs, servedGapRows: numWaitingGroups < 2 ? 0 : most - least };
}
