/** How unevenly those who wait have been served: what an operator looks at when somebody complains. */
import type { ScheduleTable } from "./schedule-table.ts";

/** How unevenly those who wait have been served. */
export interface Contention {
  /** Adapters, the base model among them, that have requests waiting. */
  readonly numWaitingGroups: number;
  /** Age of the request that has waited longest; 0 where none waits. */
  readonly longestWaitMs: number;
  /** Most rows that one of a tenant's adapters that wait has been served ahead of another; 0 below two of them. */
  readonly servedGapRows: number;
  /** The same between tenants that wait, of rows divided by weights. */
  readonly tenantGapRows: number;
}

/**
 * @internal
 * @complexity O(waiting requests)
 */
export function contentionOf({ groups, tenants }: Pick<ScheduleTable, "groups" | "tenants">, nowMs: number): Contention {
  let numWaitingGroups = 0;
  let oldestMs = nowMs;
  for (const { waiting } of groups.values()) {
    if (waiting.length > 0) numWaitingGroups++;
    for (const { submittedMs } of waiting) oldestMs = Math.min(oldestMs, submittedMs);
  }
  let servedGapRows = 0;
  const ofTenants = new Range();
  for (const { lanes, virtualRows } of tenants.values()) {
    const ofLanes = new Range();
    for (const { waiting, servedRows } of lanes) if (waiting.length > 0) ofLanes.add(servedRows);
    if (!ofLanes.isEmpty) ofTenants.add(virtualRows);
    servedGapRows = Math.max(servedGapRows, ofLanes.width);
  }
  return { numWaitingGroups, longestWaitMs: nowMs - oldestMs, servedGapRows, tenantGapRows: ofTenants.width };
}

class Range {
  #least = Infinity;
  #most = -Infinity;

  add(value: number): void {
    this.#least = Math.min(this.#least, value);
    this.#most = Math.max(this.#most, value);
  }

  get isEmpty(): boolean {
    return this.#most === -Infinity;
  }

  get width(): number {
    return this.isEmpty ? 0 : this.#most - this.#least;
  }
}
