/**
 * The whole state of the schedule as one plain record, changed in place by the functions of this folder.
 *
 * It is kept outside XState's context on purpose: copying tables of this size per event would cost more
 * than the step they describe.
 */
import type { ExtentPool } from "../core/extent-pool.ts";
import { NO_SLOT, type AdapterId, type RequestId, type SlotId } from "../core/ids.ts";
import type { FinishReason } from "../core/sampling.ts";
import { PagePool } from "../kv/page-pool.ts";
import { PrefixIndex } from "../kv/prefix-index.ts";
import type { Lane, Tenant } from "./lanes.ts";
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
  /** Shares of tenants by name, above 0; 1 for those not listed. */
  readonly weights?: ReadonlyMap<string, number>;
  /** Whether sequences begin with pages that others have computed; left out for no. */
  readonly sharesPrefixes?: boolean;
}

/** What the schedule asks of an adapter that has been read. */
export interface AdapterContent {
  /** SHA-256 of what it does. */
  readonly digest: string;
  /** Token ids from whose last occurrence in a prompt on it acts; `null` where it always does. */
  readonly invocation: readonly number[] | null;
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
  /** By the tenant's name. */
  readonly lanes: Map<string, Lane>;
  /** Of all its lanes, by priority, then in order of arrival; preempted ones before. */
  readonly waiting: Sequence[];
  numRunning: number;
  /** Step since which nothing of it runs. */
  idleSinceStep: number;
  lease: LeaseState;
  /** Tells this lease from earlier ones of the adapter, so that a late answer is not taken for a new one. */
  leaseNumber: number;
  slot: SlotId;
  /** Step at which the lease was granted. */
  heldSinceStep: number;
  /** Nothing of the group starts until its lease is given back. */
  isDraining: boolean;
}

export interface ScheduleTable {
  readonly limits: ScheduleLimits;
  readonly pool: PagePool;
  /** `null` where no pages are shared. */
  readonly prefixes: PrefixIndex | null;
  /** Of an adapter with a lease: it has been read then. */
  readonly contentOf: (adapter: AdapterId) => AdapterContent;
  /** Every sequence that has not ended. */
  readonly sequences: Map<RequestId, Sequence>;
  readonly groups: Map<GroupKey, AdapterGroup>;
  /** In the order of their latest start. */
  readonly running: Sequence[];
  /** Those that have requests. */
  readonly tenants: Map<string, Tenant>;
  /** `servedRows` of lanes and `virtualRows` of tenants that have gone, the oldest first, `MAX_REMEMBERED` at most. */
  readonly rememberedLanes: Map<string, number>;
  readonly rememberedTenants: Map<string, number>;
  /** The lane that a place was taken from another sequence for: it starts next. */
  clearedFor: Lane | null;
  /** Steps with at least one row so far: the time that waiting is measured in. */
  step: number;
  /** Compositions so far, empty ones too. */
  numComposed: number;
  /** Steps composed and not settled. */
  numUnderWay: number;
  /** Somebody has to give something up that a step under way names: nothing more is composed until none is. */
  wantsPause: boolean;
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
  /** Tokens of sequences that looked for a prefix when they first started, and those that they found. */
  prefixQueries: number;
  prefixHits: number;
  readonly finished: Record<FinishReason, number>;
}

export interface PageMemory {
  readonly extents: ExtentPool;
  /** Positions in one page. */
  readonly pageTokens: number;
  /** Most pages at once. */
  readonly numPages: number;
}

export const createScheduleTable = (
  limits: ScheduleLimits,
  pages: PageMemory,
  contentOf: ScheduleTable["contentOf"] = (adapter) => ({ digest: `#${adapter}`, invocation: null }),
  prefixes = limits.sharesPrefixes === true ? new PrefixIndex() : null,
): ScheduleTable => ({
  limits,
  pool: new PagePool(pages.extents, pages.pageTokens, pages.numPages, (page) => prefixes?.drop(page) ?? [page]),
  prefixes,
  contentOf,
  sequences: new Map(),
  groups: new Map(),
  running: [],
  tenants: new Map(),
  rememberedLanes: new Map(),
  rememberedTenants: new Map(),
  clearedFor: null,
  step: 0,
  numComposed: 0,
  numUnderWay: 0,
  wantsPause: false,
  nextStartOrder: 0,
  nextLeaseNumber: 1,
  nextDeadlineMs: Infinity,
  numWaiting: 0,
  waitingTokens: 0,
  counters: {
    preemptions: 0,
    prefixQueries: 0,
    prefixHits: 0,
    finished: { stop: 0, length: 0, cancelled: 0, timeout: 0, shutdown: 0, error: 0 },
  },
});

/** The group of an adapter, made when missing. */
export function groupOf(table: ScheduleTable, adapter: GroupKey): AdapterGroup {
  const existing = table.groups.get(adapter);
  if (existing !== undefined) return existing;
  const group: AdapterGroup = {
    adapter,
    lanes: new Map(),
    waiting: [],
    numRunning: 0,
    idleSinceStep: table.step,
    lease: adapter === null ? "held" : "none",
    leaseNumber: 0,
    slot: NO_SLOT,
    heldSinceStep: 0,
    isDraining: false,
  };
  table.groups.set(adapter, group);
  return group;
}

/** Forgets a group that has neither requests nor a lease. */
export function dropIdleGroup(table: ScheduleTable, group: AdapterGroup): void {
  const isLeased = group.adapter !== null && group.lease !== "none";
  if (group.waiting.length > 0 || group.numRunning > 0 || isLeased) return;
  table.groups.delete(group.adapter);
}

type Queue = Pick<AdapterGroup, "waiting" | "numRunning" | "idleSinceStep">;

/** Step since which an adapter or a lane has requests waiting and nothing running; `Infinity` while it is served. */
export function waitsSince({ waiting, numRunning, idleSinceStep }: Queue): number {
  const head = waiting[0];
  if (head === undefined || numRunning > 0) return Infinity;
  return Math.max(head.queuedStep, idleSinceStep);
}

/**
 * Whether it has gone without so long that others may not pass it.
 *
 * Queues age and not requests: under overload every request is old, and going by that would give the
 * longest queue everything.
 */
export const isAged = (table: ScheduleTable, queue: Queue): boolean =>
  table.step - waitsSince(queue) >= table.limits.agingSteps;
