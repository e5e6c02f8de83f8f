/**
 * The whole state of the schedule as one plain record, changed in place by the functions of this folder.
 *
 * It is kept outside XState's context on purpose: copying tables of this size per event would cost more
 * than the step they describe.
 */
import { NO_SLOT, type AdapterId, type RequestId, type SlotId } from "../core/ids.ts";
import type { FinishReason } from "../core/sampling.ts";
import { PagePool } from "../kv/page-pool.ts";
import type { Sequence } from "./sequence.ts";

export interface ScheduleLimits {
  /** Token budget: most rows in one step, at least 1. */
  readonly maxRows: number;
  /** Most sequences in one step, and so running at once; at least 1. */
  readonly maxSequences: number;
  /** Longest sequence, prompt and output together, in tokens. */
  readonly maxContext: number;
  /** Most requests waiting to run; more are refused with `queue_full`. */
  readonly maxWaitingRequests: number;
  /** Most prompt tokens waiting to run; a single prompt may be longer when nothing else waits. */
  readonly maxWaitingTokens: number;
  /** Steps without service after which an adapter goes before all others. */
  readonly agingSteps: number;
  /** Steps for which an adapter keeps its slot at least, when aged adapters want one. */
  readonly quantumSteps: number;
}

/** `null` stands for the base model. */
export type GroupKey = AdapterId | null;

/**
 * A place on the device for one adapter.
 *
 * `asked`: wanted from the slot allocator; `blocked`: it answered that every slot is leased; `held`:
 * granted. The base model always holds.
 */
export type LeaseState = "none" | "asked" | "blocked" | "held";

/** Requests of one adapter. */
export interface AdapterGroup {
  readonly adapter: GroupKey;
  /** By priority, then first come, first served; a preempted sequence is put back at the head. */
  readonly waiting: Sequence[];
  numRunning: number;
  /** Step since which nothing of it runs. */
  idleSinceStep: number;
  /** Rows computed for the group, comparable between groups that have requests. */
  servedRows: number;
  lease: LeaseState;
  /** Tells this lease from earlier ones of the adapter, so that a late answer is not taken for a new one. */
  leaseNumber: number;
  slot: SlotId;
  /** Step at which the lease was granted. */
  heldSinceStep: number;
  /** Nothing of the group starts until its lease is given back. */
  isDraining: boolean;
  /** Composition (`numComposed`) in which its head did not fit the free pages. */
  skippedAt: number;
}

export interface ScheduleTable {
  readonly limits: ScheduleLimits;
  readonly pool: PagePool;
  /** Every sequence that has not ended. */
  readonly sequences: Map<RequestId, Sequence>;
  readonly groups: Map<GroupKey, AdapterGroup>;
  /** In the order of their latest start. */
  readonly running: Sequence[];
  /** `servedRows` of groups that have gone, the oldest first, at most `MAX_REMEMBERED_GROUPS`. */
  readonly remembered: Map<GroupKey, number>;
  /** Steps with at least one row so far: the time that waiting is measured in. */
  step: number;
  /** Compositions so far, empty ones too. */
  numComposed: number;
  nextStartOrder: number;
  nextLeaseNumber: number;
  /** Earliest deadline of any sequence, or earlier. */
  nextDeadlineMs: number;
  numWaiting: number;
  /** Tokens to prefill for the waiting sequences. */
  waitingTokens: number;
  readonly counters: ScheduleCounters;
}

/** Only grow. */
export interface ScheduleCounters {
  preemptions: number;
  readonly finished: Record<FinishReason, number>;
}

export const MAX_REMEMBERED_GROUPS = 1024;

export const createScheduleTable = (
  limits: ScheduleLimits,
  numPages: number,
  pageTokens: number,
): ScheduleTable => ({
  limits,
  pool: new PagePool(numPages, pageTokens),
  sequences: new Map(),
  groups: new Map(),
  running: [],
  remembered: new Map(),
  step: 0,
  numComposed: 0,
  nextStartOrder: 0,
  nextLeaseNumber: 1,
  nextDeadlineMs: Infinity,
  numWaiting: 0,
  waitingTokens: 0,
  counters: {
    preemptions: 0,
    finished: { stop: 0, length: 0, cancelled: 0, timeout: 0, shutdown: 0, error: 0 },
  },
});

/**
 * The group of an adapter, made when missing.
 *
 * A group that comes (back) starts level with the least served one: idle time earns no credit, and what
 * it had been served before still counts.
 *
 * @source Sheng et al., Fairness in Serving Large Language Models, arXiv:2401.00588 (virtual token counter)
 */
export function groupOf(table: ScheduleTable, adapter: GroupKey): AdapterGroup {
  const existing = table.groups.get(adapter);
  if (existing !== undefined) return existing;
  let leastServed = Infinity;
  for (const other of table.groups.values()) {
    leastServed = Math.min(leastServed, other.servedRows);
  }
  const earlier = table.remembered.get(adapter) ?? 0;
  table.remembered.delete(adapter);
  const group: AdapterGroup = {
    adapter,
    waiting: [],
    numRunning: 0,
    idleSinceStep: table.step,
    servedRows: leastServed === Infinity ? earlier : Math.max(earlier, leastServed),
    lease: adapter === null ? "held" : "none",
    leaseNumber: 0,
    slot: NO_SLOT,
    heldSinceStep: 0,
    isDraining: false,
    skippedAt: -1,
  };
  table.groups.set(adapter, group);
  return group;
}

/** Forgets a group that has neither requests nor a lease. */
export function dropIdleGroup(table: ScheduleTable, group: AdapterGroup): void {
  const isLeased = group.adapter !== null && group.lease !== "none";
  if (group.waiting.length > 0 || group.numRunning > 0 || isLeased) return;
  table.groups.delete(group.adapter);
  table.remembered.set(group.adapter, group.servedRows);
  if (table.remembered.size > MAX_REMEMBERED_GROUPS) {
    for (const oldest of table.remembered.keys()) {
      table.remembered.delete(oldest);
      break;
    }
  }
}

/** Step since which the group has requests waiting and nothing running; `Infinity` while it is served. */
export function waitsSince(group: AdapterGroup): number {
  const head = group.waiting[0];
  if (head === undefined || group.numRunning > 0) return Infinity;
  return Math.max(head.queuedStep, group.idleSinceStep);
}

/**
 * Whether the group has gone without so long that others may not pass it.
 *
 * Groups age and not requests: under overload every request is old, and going by that would give the
 * longest queue everything.
 */
export const isAged = (table: ScheduleTable, group: AdapterGroup): boolean =>
  table.step - waitsSince(group) >= table.limits.agingSteps;
