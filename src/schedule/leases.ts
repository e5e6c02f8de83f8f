/**
 * Which adapters want a place on the device, and which give theirs back.
 *
 * A lease is held per adapter while it has requests. `turn-over.ts` says when one that is in use goes on.
 */
import type { LorikeetError } from "../core/errors.ts";
import { NO_SLOT, type AdapterId, type SlotId } from "../core/ids.ts";
import { activationOf } from "../lora/activation.ts";
import { failure, retire, type Retired } from "./retire.ts";
import { dropIdleGroup, type AdapterGroup, type ScheduleTable } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

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
  for (const sequence of group.waiting) noteReady(table, sequence, nowMs);
}

/** Its adapter is there to be used, and so it is known from where on it acts. */
export function noteReady(table: ScheduleTable, sequence: Sequence, nowMs: number): void {
  sequence.adapterReadyMs ??= nowMs;
  if (sequence.adapter === null) return;
  const { invocation } = table.contentOf(sequence.adapter);
  if (invocation !== null) sequence.activeFrom = activationOf(invocation, sequence.tokens, sequence.promptLength);
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
