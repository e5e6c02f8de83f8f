/**
 * Which adapters want a place on the device, and which give theirs back.
 *
 * A lease is held per adapter while it has requests. When adapters outnumber the slots, a lease turns
 * over for an aged request: one holder per aged adapter without a slot drains, and after its quantum is
 * preempted. So an adapter waits at most `agingSteps + quantumSteps`, and `quantumSteps` more for each
 * round of older aged adapters that the slots have to take first.
 */
import type { LorikeetError } from "../core/errors.ts";
import { NO_SLOT, type AdapterId, type SlotId } from "../core/ids.ts";
import { preemptGroup } from "./preempt.ts";
import { failure, retire, type Retired } from "./retire.ts";
import { dropIdleGroup, isAged, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import { numRemaining } from "./sequence.ts";

export interface LeaseChange {
  readonly kind: "wanted" | "released";
  readonly adapterId: AdapterId;
  readonly leaseNumber: number;
}

/** Gives back the leases that nothing uses, and asks for those that waiting requests need, oldest first. */
export function changeLeases(table: ScheduleTable): LeaseChange[] {
  const changes: LeaseChange[] = [];
  const wanting: AdapterGroup[] = [];
  for (const group of table.groups.values()) {
    if (group.adapter === null) continue;
    const isUnused = group.numRunning === 0 && (group.waiting.length === 0 || group.isDraining);
    if (group.lease !== "none" && isUnused) {
      changes.push({
        kind: "released",
        adapterId: group.adapter,
        leaseNumber: group.leaseNumber,
      });
      giveUpLease(group);
      dropIdleGroup(table, group);
    }
    if (group.lease === "none" && group.waiting.length > 0) wanting.push(group);
  }
  if (changes.length > 0) {
    // Room has come free: whoever is still blocked will be told so again.
    for (const group of table.groups.values()) {
      if (group.lease === "blocked") group.lease = "asked";
    }
  }
  wanting.sort((a, b) => a.waiting[0]!.arrival - b.waiting[0]!.arrival);
  for (const group of wanting) {
    group.lease = "asked";
    group.leaseNumber = table.nextLeaseNumber++;
    changes.push({
      kind: "wanted",
      adapterId: group.adapter!,
      leaseNumber: group.leaseNumber,
    });
  }
  return changes;
}

function giveUpLease(group: AdapterGroup): void {
  group.lease = "none";
  group.slot = NO_SLOT;
  group.isDraining = false;
}

/** Makes holders drain for aged requests that every slot is closed to. Between two steps only. */
export function turnOver(table: ScheduleTable): void {
  const blocked: AdapterGroup[] = [];
  const draining: AdapterGroup[] = [];
  for (const group of table.groups.values()) {
    const head = group.waiting[0];
    if (group.lease === "blocked" && head !== undefined && isAged(table, head)) blocked.push(group);
    if (group.isDraining) draining.push(group);
  }
  while (draining.length > blocked.length) draining.pop()!.isDraining = false;
  if (blocked.length === 0) return;

  blocked.sort((a, b) => a.waiting[0]!.arrival - b.waiting[0]!.arrival);
  for (const group of blocked.slice(draining.length)) {
    const victim = pickHolder(table, group.waiting[0]!.arrival);
    if (victim === null) break;
    victim.isDraining = true;
    draining.push(victim);
  }
  const { agingSteps, quantumSteps } = table.limits;
  const oldest = blocked[0]!.waiting[0]!;
  if (table.step - oldest.queuedStep < agingSteps + quantumSteps) return;
  for (const group of draining) {
    if (table.step - group.heldSinceStep >= quantumSteps) preemptGroup(table, group);
  }
}

/** The holder that will be done soonest, of those whose own queue is younger than `arrival`. */
function pickHolder(table: ScheduleTable, arrival: number): AdapterGroup | null {
  const longestRun = new Map<AdapterGroup["adapter"], number>();
  for (const sequence of table.running) {
    const longest = longestRun.get(sequence.adapter) ?? 0;
    longestRun.set(sequence.adapter, Math.max(longest, numRemaining(sequence)));
  }
  let best: AdapterGroup | null = null;
  for (const group of table.groups.values()) {
    if (group.adapter === null || group.lease !== "held" || group.isDraining) continue;
    const head = group.waiting[0];
    if (head !== undefined && head.arrival < arrival) continue;
    const isSooner =
      best === null ||
      (longestRun.get(group.adapter) ?? 0) < (longestRun.get(best.adapter) ?? 0);
    if (isSooner) best = group;
  }
  return best;
}

/** The group that waits for exactly this lease; late answers to earlier leases find none. */
function waitingFor(
  table: ScheduleTable,
  adapterId: AdapterId,
  leaseNumber: number,
): AdapterGroup | null {
  const group = table.groups.get(adapterId);
  if (group === undefined || group.leaseNumber !== leaseNumber) return null;
  return group.lease === "asked" || group.lease === "blocked" ? group : null;
}

export function grantLease(
  table: ScheduleTable,
  adapterId: AdapterId,
  leaseNumber: number,
  slot: SlotId,
  nowMs: number,
): void {
  const group = waitingFor(table, adapterId, leaseNumber);
  if (group === null) return;
  group.lease = "held";
  group.slot = slot;
  group.heldSinceStep = table.step;
  for (const sequence of group.waiting) sequence.adapterReadyMs ??= nowMs;
}

export function blockLease(table: ScheduleTable, adapterId: AdapterId, leaseNumber: number): void {
  const group = waitingFor(table, adapterId, leaseNumber);
  if (group !== null) group.lease = "blocked";
}

/** Ends the requests that wait for an adapter which cannot be had; all others go on. */
export function refuseLease(
  table: ScheduleTable,
  adapterId: AdapterId,
  leaseNumber: number,
  error: LorikeetError,
  nowMs: number,
): Retired[] {
  const group = waitingFor(table, adapterId, leaseNumber);
  if (group === null) return [];
  giveUpLease(group);
  return [...group.waiting].map((sequence) => retire(table, sequence, failure(error), nowMs));
}
