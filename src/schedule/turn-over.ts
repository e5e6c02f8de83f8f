/**
 * When those who run have to make room for adapters that wait.
 *
 * Adapters outnumber slots, so leases turn over: for each adapter that has aged without a slot one holder
 * drains, and after its quantum is preempted, unless it still computes a prompt. Places and pages turn over
 * by themselves as sequences end; where they do not for a quantum, one sequence is preempted as well. So an
 * adapter waits at most `agingSteps + quantumSteps` and a prompt, and `quantumSteps` more for each round of
 * adapters that have waited longer.
 */
import { preempt, preemptGroup } from "./preempt.ts";
import { maxRunning, pagesToStart, promisedPages } from "./room.ts";
import { isAged, waitsSince, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import { hasGained, numRemaining, numUncomputed, type Sequence } from "./sequence.ts";

/** Makes room for adapters that have aged. Between two steps only. */
export function turnOver(table: ScheduleTable): void {
  freeSlots(table);
  freePlace(table);
}

/** One holder drains for each aged adapter that every slot is closed to. */
function freeSlots(table: ScheduleTable): void {
  const blocked: AdapterGroup[] = [];
  const draining: AdapterGroup[] = [];
  for (const group of table.groups.values()) {
    if (group.lease === "blocked" && isAged(table, group)) blocked.push(group);
    if (group.isDraining) draining.push(group);
  }
  while (draining.length > blocked.length) draining.pop()!.isDraining = false;
  if (blocked.length === 0) return;

  blocked.sort((a, b) => waitsSince(a) - waitsSince(b));
  for (const group of blocked.slice(draining.length)) {
    const holder = pickHolder(table, waitsSince(group));
    if (holder === null) break;
    holder.isDraining = true;
    draining.push(holder);
  }
  const { agingSteps, quantumSteps } = table.limits;
  if (table.step - waitsSince(blocked[0]!) < agingSteps + quantumSteps) return;
  for (const group of draining) {
    const hadQuantum = table.step - group.heldSinceStep >= quantumSteps;
    if (hadQuantum && allGained(table, group)) preemptGroup(table, group);
  }
}

/** Otherwise two adapters whose prompts take longer than a quantum would take turns for ever. */
const allGained = (table: ScheduleTable, group: AdapterGroup): boolean =>
  table.running.every((sequence) => sequence.adapter !== group.adapter || hasGained(sequence));

/** The holder that will give its lease back soonest, of those that did not wait longer themselves. */
function pickHolder(table: ScheduleTable, since: number): AdapterGroup | null {
  let best: AdapterGroup | null = null;
  let bestSteps = Infinity;
  for (const group of table.groups.values()) {
    if (group.adapter === null || group.lease !== "held" || group.isDraining) continue;
    if (waitsSince(group) <= since) continue;
    const steps = stepsToRelease(table, group);
    if (best !== null && steps >= bestSteps) continue;
    best = group;
    bestSteps = steps;
  }
  return best;
}

/** Roughly: until the longest of its sequences ends, or its quantum and its prompts do. */
function stepsToRelease(table: ScheduleTable, group: AdapterGroup): number {
  let longestRun = 0;
  let uncomputed = 0;
  for (const sequence of table.running) {
    if (sequence.adapter !== group.adapter) continue;
    longestRun = Math.max(longestRun, numRemaining(sequence));
    uncomputed += numUncomputed(sequence);
  }
  const { quantumSteps, maxRows } = table.limits;
  const quantumLeft = Math.max(0, group.heldSinceStep + quantumSteps - table.step);
  return Math.min(longestRun, quantumLeft) + uncomputed / maxRows;
}

/** One sequence goes back to its queue for the adapter that has waited longest for a place or for pages. */
function freePlace(table: ScheduleTable): void {
  const { agingSteps, quantumSteps } = table.limits;
  let longest: AdapterGroup | null = null;
  for (const group of table.groups.values()) {
    if (group.lease !== "held" || group.isDraining) continue;
    if (longest === null || waitsSince(group) < waitsSince(longest)) longest = group;
  }
  const head = longest?.waiting[0];
  if (longest === null || head === undefined) return;
  if (table.step - waitsSince(longest) < agingSteps + quantumSteps) return;
  const hasPlace = table.running.length < maxRunning(table);
  const hasPages = table.pool.numFree - promisedPages(table) >= pagesToStart(table, head);
  if (hasPlace && hasPages) return;
  const victim = latestWithQuantum(table);
  if (victim !== undefined) preempt(table, victim);
}

function latestWithQuantum({ running, step, limits }: ScheduleTable): Sequence | undefined {
  return running.findLast(
    (sequence) => step - sequence.startStep >= limits.quantumSteps && hasGained(sequence),
  );
}
