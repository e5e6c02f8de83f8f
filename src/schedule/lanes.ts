/**
 * Whose requests wait for which adapter, and how much of the device each has had.
 *
 * A tenant is what shares are measured by: an API key, or everybody where there are none. A lane is one tenant's
 * requests for one adapter.
 */
import { dropIdleGroup, groupOf, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import { priorityOf, type Sequence } from "./sequence.ts";

export interface Tenant {
  readonly name: string;
  /** Its share against others', above 0. */
  readonly weight: number;
  /** Rows computed for it, divided by its weight; comparable between tenants that have requests. */
  virtualRows: number;
  numRunning: number;
  readonly lanes: Set<Lane>;
}

export interface Lane {
  readonly tenant: Tenant;
  readonly group: AdapterGroup;
  /** By priority, then first come, first served; a preempted sequence is put back at the head. */
  readonly waiting: Sequence[];
  numRunning: number;
  /** Step since which nothing of it runs. */
  idleSinceStep: number;
  /** Rows computed for it, comparable between lanes of one tenant that have requests. */
  servedRows: number;
  /** Composition (`numComposed`) in which its head did not fit the free pages. */
  skippedAt: number;
}

/** Tenants, and lanes, that have gone and are still charged for what they had. */
export const MAX_REMEMBERED = 1024;

/** The lane of a sequence: found once, since a lane stays as long as it has sequences. */
export const laneOf = (table: ScheduleTable, sequence: Sequence): Lane => (sequence.lane ??= laneFor(table, sequence));

/**
 * Made when missing, and its tenant with it.
 *
 * Whoever comes (back) starts level with the least served: idle time earns no credit, and what was had before
 * still counts.
 *
 * @source Sheng et al., Fairness in Serving Large Language Models, arXiv:2401.00588 (virtual token counter)
 */
function laneFor(table: ScheduleTable, { adapter, tenant: name }: Sequence): Lane {
  const group = groupOf(table, adapter);
  const existing = group.lanes.get(name);
  if (existing !== undefined) return existing;
  const tenant = tenantOf(table, name);
  const others = [...tenant.lanes].map(({ servedRows }) => servedRows);
  const lane: Lane = {
    tenant,
    group,
    waiting: [],
    numRunning: 0,
    idleSinceStep: table.step,
    servedRows: level(recall(table.rememberedLanes, laneKey(group, name)), others),
    skippedAt: -1,
  };
  tenant.lanes.add(lane);
  group.lanes.set(name, lane);
  return lane;
}

function tenantOf(table: ScheduleTable, name: string): Tenant {
  const existing = table.tenants.get(name);
  if (existing !== undefined) return existing;
  const others = [...table.tenants.values()].map(({ virtualRows }) => virtualRows);
  const tenant: Tenant = {
    name,
    weight: table.limits.weights?.get(name) ?? 1,
    virtualRows: level(recall(table.rememberedTenants, name), others),
    numRunning: 0,
    lanes: new Set(),
  };
  table.tenants.set(name, tenant);
  return tenant;
}

/** For rows planned for the lane; below 0 for rows that are not computed after all. */
export function charge(lane: Lane, numRows: number): void {
  lane.servedRows += numRows;
  lane.tenant.virtualRows += numRows / lane.tenant.weight;
}

/** @param isFirst puts it before all others of its lane and its adapter */
export function joinQueue(table: ScheduleTable, sequence: Sequence, isFirst = false): void {
  const lane = laneOf(table, sequence);
  for (const { waiting } of [lane, lane.group]) {
    if (isFirst) waiting.unshift(sequence);
    else waiting.splice(placeOf(sequence, waiting), 0, sequence);
  }
  sequence.phase = "waiting";
  sequence.queuedStep = table.step;
  table.numWaiting++;
  table.waitingTokens += sequence.length;
}

/** Behind all of its priority; those that were preempted stay in front. */
function placeOf(sequence: Sequence, waiting: readonly Sequence[]): number {
  let place = waiting.length;
  while (place > 0 && waiting[place - 1]!.numPreemptions === 0 && priorityOf(waiting[place - 1]!) > priorityOf(sequence)) place--;
  return place;
}

export function leaveQueue(table: ScheduleTable, sequence: Sequence): void {
  const lane = laneOf(table, sequence);
  for (const { waiting } of [lane, lane.group]) waiting.splice(waiting.indexOf(sequence), 1);
  table.numWaiting--;
  table.waitingTokens -= sequence.length;
}

export function joinRunning(table: ScheduleTable, sequence: Sequence): void {
  const lane = laneOf(table, sequence);
  for (const each of [lane, lane.group, lane.tenant]) each.numRunning++;
  table.running.push(sequence);
  sequence.phase = "running";
}

export function leaveRunning(table: ScheduleTable, sequence: Sequence): void {
  const lane = laneOf(table, sequence);
  for (const each of [lane, lane.group, lane.tenant]) each.numRunning--;
  for (const each of [lane, lane.group]) each.idleSinceStep = table.step;
  table.running.splice(table.running.lastIndexOf(sequence), 1);
}

/** Forgets the lane of a sequence that has gone, when it was the last, and what the lane was part of. */
export function dropIdleLane(table: ScheduleTable, sequence: Sequence): void {
  const lane = laneOf(table, sequence);
  const { tenant, group } = lane;
  if (lane.waiting.length === 0 && lane.numRunning === 0) {
    group.lanes.delete(tenant.name);
    tenant.lanes.delete(lane);
    remember(table.rememberedLanes, laneKey(group, tenant.name), lane.servedRows);
  }
  if (tenant.lanes.size === 0) {
    table.tenants.delete(tenant.name);
    remember(table.rememberedTenants, tenant.name, tenant.virtualRows);
  }
  dropIdleGroup(table, group);
}

const laneKey = ({ adapter }: AdapterGroup, tenant: string): string => `${adapter ?? "base"}/${tenant}`;

const level = (earlier: number, others: readonly number[]): number =>
  others.length === 0 ? earlier : Math.max(earlier, others.reduce((least, each) => Math.min(least, each)));

function recall(remembered: Map<string, number>, key: string): number {
  const value = remembered.get(key) ?? 0;
  remembered.delete(key);
  return value;
}

function remember(remembered: Map<string, number>, key: string, value: number): void {
  remembered.set(key, value);
  if (remembered.size <= MAX_REMEMBERED) return;
  for (const oldest of remembered.keys()) {
    remembered.delete(oldest);
    break;
  }
}
