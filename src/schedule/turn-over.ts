/**
 * When those who run have to make room for those who wait.
 *
 * Adapters outnumber slots, so leases turn over: for each adapter that has aged without a slot one holder
 * drains, and after its quantum is preempted, unless it still computes a prompt. So an adapter waits for a slot
 * at most `agingSteps + quantumSteps` and a prompt, and `quantumSteps` more for each round of adapters that have
 * waited longer. Sequences whose pages lie where it is to go are preempted as well once they have had their quantum.
 *
 * Places and pages turn over by themselves as sequences end; where they do not for a quantum, one sequence is
 * preempted as well; an adapter that has waited for its slot may find its place taken and wait for one quantum more.
 * So a tenant of which nothing runs waits for a place at most `agingSteps`, two quanta and a prompt, and a step more
 * for each such tenant that has waited longer.
 */
import type { Lane, Tenant } from "./lanes.ts";
import { preempt, preemptGroup } from "./preempt.ts";
import { findPrefix } from "./prefixes.ts";
import { hasPages, maxRunning, promisedPages } from "./room.ts";
import { isAged, waitsSince, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import { hasGained, numRemaining, numUncomputed, type Sequence } from "./sequence.ts";

/** Makes room for adapters that have aged; asks for a pause where a step under way does not let it. */
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
    const heldQuantum = table.step - group.heldSinceStep >= quantumSteps;
    if (heldQuantum && allGained(table, group)) preemptGroup(table, group);
  }
  for (const sequence of table.running.toReversed()) {
    if (sequence.pages.some((page) => table.pool.isInTheWay(page)) && hadQuantum(table, sequence)) preempt(table, sequence);
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

/**
 * One sequence goes back to its queue for the lane that has waited longest for a place or for pages; first for
 * tenants of which nothing runs. Others pay with a sequence of their own, so that shares stay as they are.
 */
function freePlace(table: ScheduleTable): void {
  table.clearedFor = null;
  const { agingSteps, quantumSteps } = table.limits;
  const lane = [true, false]
    .map((isIdle) => longestWaiting(table, isIdle))
    .find((each) => each !== undefined && table.step - waitsSince(each) >= agingSteps + quantumSteps);
  if (lane === undefined) return;
  const hasPlace = table.running.length < maxRunning(table);
  const [sequence] = lane.waiting as [Sequence];
  if (hasPlace && hasPages(table, sequence, findPrefix(table, sequence), promisedPages(table))) return;
  const victim = latestWithQuantum(table, lane.tenant);
  if (victim === undefined) return;
  if (preempt(table, victim)) table.clearedFor = lane;
}

/** Among tenants of which nothing runs, or among the others. */
function longestWaiting(table: ScheduleTable, isIdle: boolean): Lane | undefined {
  let longest: Lane | undefined;
  let since = Infinity;
  for (const tenant of table.tenants.values()) {
    if ((tenant.numRunning === 0) !== isIdle) continue;
    for (const lane of tenant.lanes) {
      if (lane.group.lease !== "held" || lane.group.isDraining || waitsSince(lane) >= since) continue;
      longest = lane;
      since = waitsSince(lane);
    }
  }
  return longest;
}

const latestWithQuantum = (table: ScheduleTable, { name, numRunning }: Tenant): Sequence | undefined =>
  table.running.findLast((sequence) => (numRunning === 0 || sequence.tenant === name) && hadQuantum(table, sequence));

const hadQuantum = ({ step, limits }: ScheduleTable, sequence: Sequence): boolean => step - sequence.startStep >= limits.quantumSteps && hasGained(sequence);
