/** Schedule tables and sequences in few words, for tests of policy. */
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asAdapterId, asRequestId, asSlotId } from "../../src/core/ids.ts";
import type { Finish } from "../../src/core/request.ts";
import { enqueue } from "../../src/schedule/admission.ts";
import { composeStep, type StepPlan } from "../../src/schedule/compose-step.ts";
import { changeLeases, grantLease } from "../../src/schedule/leases.ts";
import type { Retired } from "../../src/schedule/retire.ts";
import {
  createScheduleTable,
  type ScheduleLimits,
  type ScheduleTable,
} from "../../src/schedule/schedule-table.ts";
import {
  appendToken,
  createSequence, isScoring,
  numRemaining,
  type Sequence,
} from "../../src/schedule/sequence.ts";
import { settleStep } from "../../src/schedule/settle-step.ts";
import { samplingWith } from "./sampling.ts";

export const limitsWith = (changes: Partial<ScheduleLimits> = {}): ScheduleLimits => ({
  maxRows: 16,
  maxSequences: 8,
  maxContext: 256,
  maxWaitingRequests: 1000,
  maxWaitingTokens: 100_000,
  agingSteps: 32,
  quantumSteps: 64,
  ...changes,
});

export const tableWith = (
  limits: Partial<ScheduleLimits> = {},
  numPages = 64,
  pageTokens = 4,
): ScheduleTable => createScheduleTable(limitsWith(limits), { extents: new ExtentPool(numPages), pageTokens, numPages }, (adapter) => ({ digest: `digest of ${adapter === 81 ? 80 : adapter}`, invocation: INVOCATIONS.get(adapter) ?? null }));

/** Adapters that act from tokens on. 80 and 81 have equal content. */
const INVOCATIONS: ReadonlyMap<number, readonly number[]> = new Map([[90, [6]], [91, [3, 4]], [92, [1000]], [93, [5]], [94, [3, 4]]]);

export interface Asked {
  readonly id?: string;
  /** Left out for the base model. */
  readonly adapter?: number;
  readonly tenant?: string;
  /** Its length; the tokens count up from 0. */
  readonly prompt?: number;
  /** In place of these. */
  readonly tokens?: readonly number[];
  readonly cacheSalt?: string;
  readonly maxTokens?: number;
  readonly deadlineMs?: number;
  readonly priority?: number;
  /** Whether its prompt's tokens are scored. */
  readonly isScored?: boolean;
  /** Whether the tokens that may come next are known. */
  readonly isReady?: () => boolean;
}

let numAsked = 0;
/** Finishes by request id, of all tests of the process. */
export const finishes = new Map<string, Finish>();

export function submit(table: ScheduleTable, asked: Asked = {}): Sequence {
  const arrival = numAsked++;
  const id = asked.id ?? `r${arrival}`;
  const sequence = createSequence({
    id: asRequestId(id),
    adapter: asked.adapter === undefined ? null : asAdapterId(asked.adapter),
    tenant: asked.tenant ?? "",
    promptTokens: asked.tokens ?? Array.from({ length: asked.prompt ?? 4 }, (_, index) => index),
    ...(asked.cacheSalt === undefined ? {} : { cacheSalt: asked.cacheSalt }),
    sampling: samplingWith({ maxTokens: asked.maxTokens ?? 4, ...(asked.isScored === true ? { promptLogprobs: 0 } : {}) }),
    output: {
      adjustments: () => [],
      get isReady() {
        return asked.isReady?.() ?? true;
      },
      accept: () => null,
      finish: (finish) => void finishes.set(id, finish),
    },
    arrival,
    priority: asked.priority ?? 0,
    submittedMs: 0,
    deadlineMs: asked.deadlineMs ?? Infinity,
  });
  enqueue(table, sequence);
  return sequence;
}

/** Grants every adapter its wish, adapter `n` slot `n`. */
export function grantAll(table: ScheduleTable): void {
  for (const change of changeLeases(table)) {
    if (change.kind !== "wanted") continue;
    grantLease(table, change.adapterId, change.leaseNumber, asSlotId(change.adapterId), 0);
  }
}

/** Computes a plan the way the engine does, with token 7 for every sample; ends sequences at their length. */
export function compute(table: ScheduleTable, plan: StepPlan): Retired[] {
  for (const entry of plan.entries) {
    const { sequence } = entry;
    sequence.computed = entry.position + entry.numRows;
    if (isScoring(sequence)) sequence.scored = Math.max(sequence.scored, Math.min(sequence.computed, sequence.promptLength - 1));
    if (!entry.picksToken) continue;
    sequence.numAwaited--;
    if (sequence.ending !== null) continue;
    appendToken(sequence, 7);
    if (numRemaining(sequence) === 0) {
      sequence.ending = { reason: "length", stopReason: null, error: null };
    }
  }
  return settleStep(table, plan, 0);
}

export function stepOnce(table: ScheduleTable): { plan: StepPlan; retired: Retired[] } {
  const plan = composeStep(table, 0);
  return { plan, retired: compute(table, plan) };
}

/** `id:rows@slot` of every entry, in the order of the step. */
export const slotsOf = (plan: StepPlan): string[] => plan.entries.map(({ sequence, numRows, slot }) => `${sequence.id}:${numRows}@${slot}`);

/** `id:rows` of every entry, in the order of the step. */
export const shapeOf = (plan: StepPlan): string[] =>
  plan.entries.map(({ sequence, numRows }) => `${sequence.id}:${numRows}`);

/** Everything that must be true between two steps. */
export function checkTable(table: ScheduleTable): void {
  const held = new Map<number, number>();
  const unfilled: number[] = [];
  let numWaiting = 0;
  let waitingTokens = 0;
  const leaving = table.running.filter(({ phase }) => phase === "leaving");
  for (const sequence of [...table.sequences.values(), ...leaving]) {
    for (const page of sequence.pages) {
      held.set(page, (held.get(page) ?? 0) + 1);
    }
    unfilled.push(...sequence.pages.slice(Math.floor(sequence.computed / table.pool.pageTokens)));
    if (sequence.phase === "waiting") {
      numWaiting++;
      waitingTokens += sequence.length;
      if (sequence.pages.length > 0) throw new Error("a waiting sequence holds pages");
    }
    if (sequence.phase === "running" && !table.running.includes(sequence)) {
      throw new Error("a running sequence is not in the running list");
    }
  }
  // Only full pages may be shared, where any may: nobody writes to them any more.
  for (const page of table.prefixes === null ? held.keys() : unfilled) {
    if (held.get(page)! > 1) throw new Error(`page ${page} has two owners`);
  }
  if (held.size !== table.pool.numHeld) {
    throw new Error(`${table.pool.numHeld} pages are held, ${held.size} are in tables`);
  }
  if (numWaiting !== table.numWaiting) throw new Error("numWaiting is wrong");
  if (waitingTokens !== table.waitingTokens) throw new Error("waitingTokens is wrong");
  if (table.running.length - leaving.length + numWaiting !== table.sequences.size) {
    throw new Error("a sequence is neither running nor waiting");
  }
  for (const group of table.groups.values()) {
    const numRunning = table.running.filter(({ adapter }) => adapter === group.adapter).length;
    if (numRunning !== group.numRunning) throw new Error("numRunning of a group is wrong");
    if (numRunning > 0 && group.lease !== "held") throw new Error("running without a lease");
    const lanes = [...group.lanes.values()];
    const inLanes = lanes.flatMap(({ waiting }) => waiting).length;
    if (inLanes !== group.waiting.length) throw new Error("lanes and queue of a group differ");
  }
  for (const tenant of table.tenants.values()) {
    const numRunning = table.running.filter((sequence) => sequence.tenant === tenant.name).length;
    if (numRunning !== tenant.numRunning) throw new Error("numRunning of a tenant is wrong");
    if (tenant.lanes.size === 0) throw new Error("a tenant without requests is kept");
    for (const lane of tenant.lanes) {
      if (lane.waiting.length + lane.numRunning === 0) throw new Error("a lane without requests is kept");
      if (lane.group.lanes.get(tenant.name) !== lane) throw new Error("a lane is not its group's");
    }
  }
}
