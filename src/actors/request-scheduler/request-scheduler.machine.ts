/**
 * Runs step after step while there are requests, and hears of everything that changes who may run.
 *
 *   idle ── request.submit ──▶ gathering ──▶ composing ── has a plan ──▶ stepping ── steps.failed ──▶ failed
 *    │                                        ▲      │                      │
 *    │                adapter.*, request.*, deadline └─ nothing can run     │ steps.over
 *    │                                        │      ▼                      │
 *    │                                       waiting ◀── has requests ──────┤
 *    │◀────────────────── no requests ──────────────────────────────────────┘
 *    └─ draining ─▶ drained
 *
 * The schedule table is changed in place and is no part of XState's snapshot: it has thousands of entries,
 * and copying it per event would cost more than a step. Tokens do not pass through here either: the engine
 * writes them to each request's stream; and of steps this machine hears what others have to know (`run-steps.ts`).
 */
import { assign, emit, enqueueActions, setup } from "xstate";
import { toLorikeetError, type LorikeetError } from "../../core/errors.ts";
import type { AdapterId, RequestId, SlotId } from "../../core/ids.ts";
import { enqueue as enqueueSequence } from "../../schedule/admission.ts";
import type { StepPlan } from "../../schedule/compose-step.ts";
import { blockLease, changeLeases, grantLease, refuseLease } from "../../schedule/leases.ts";
import { endAll, endingOf, endSequence, failure } from "../../schedule/retire.ts";
import type { Sequence } from "../../schedule/sequence.ts";
import { settleStep } from "../../schedule/settle-step.ts";
import { awaitTurn } from "./await-turn.ts";
import { composeNext, endedFact, leaseFact } from "./compose-next.ts";
import type { RequestSchedulerCommand, RequestSchedulerFact } from "./request-scheduler.events.ts";
import { runSteps, type RunStepsInput, type StepsEvent } from "./run-steps.ts";

/** What steps run on; which is the first of them is found here. */
export type RequestSchedulerInput = Omit<RunStepsInput, "plan" | "composedMs">;

interface RequestSchedulerContext extends RunStepsInput {
  readonly isDraining: boolean;
}

const NO_PLAN: StepPlan = { entries: [], numRows: 0, numScores: 0 };
/** Timers hold 31 bits of milliseconds; a minute is often enough to look for later deadlines. */
const MAX_DEADLINE_DELAY_MS = 60_000;

interface Lease {
  readonly adapterId: AdapterId;
  readonly leaseNumber: number;
}

export const requestSchedulerMachine = setup({
  types: {
    context: {} as RequestSchedulerContext,
    events: {} as RequestSchedulerCommand | StepsEvent,
    emitted: {} as RequestSchedulerFact,
    input: {} as RequestSchedulerInput,
  },
  actors: { awaitTurn, runSteps },
  delays: {
    nextDeadline: ({ context: { table, clock } }) =>
      Math.min(Math.max(table.nextDeadlineMs - clock.nowMs(), 0), MAX_DEADLINE_DELAY_MS),
  },
  guards: {
    hasPlan: ({ context }) => context.plan.entries.length > 0,
    hasRequests: ({ context }) => context.table.sequences.size > 0,
    isDraining: ({ context }) => context.isDraining,
  },
  actions: {
    enqueue: enqueueActions(({ context, enqueue }, params: { readonly sequence: Sequence }) => {
      enqueueSequence(context.table, params.sequence);
      for (const change of changeLeases(context.table)) enqueue.emit(leaseFact(change));
    }),
    cancel: enqueueActions(({ context, enqueue }, params: { readonly requestId: RequestId }) => {
      const { table, clock } = context;
      const ended = endSequence(table, params.requestId, endingOf("cancelled"), clock.nowMs());
      for (const retired of ended) enqueue.emit(endedFact(retired));
      for (const change of changeLeases(table)) enqueue.emit(leaseFact(change));
    }),
    use: ({ context }, params: Lease & { readonly slot: SlotId }) => {
      const { table, clock } = context;
      grantLease(table, params.adapterId, params.leaseNumber, params.slot, clock.nowMs());
    },
    block: ({ context }, params: Lease) => {
      blockLease(context.table, params.adapterId, params.leaseNumber);
    },
    refuse: enqueueActions(
      ({ context, enqueue }, params: Lease & { readonly error: LorikeetError }) => {
        const { table, clock } = context;
        const { adapterId, leaseNumber, error } = params;
        const ended = refuseLease(table, adapterId, leaseNumber, error, clock.nowMs());
        for (const retired of ended) enqueue.emit(endedFact(retired));
      },
    ),
    startDraining: assign({ isDraining: true }),
    stopAll: enqueueActions(({ context, enqueue }) => {
      const ended = endAll(context.table, endingOf("shutdown"), context.clock.nowMs());
      for (const retired of ended) enqueue.emit(endedFact(retired));
      for (const change of changeLeases(context.table)) enqueue.emit(leaseFact(change));
    }),
    compose: enqueueActions(({ context, enqueue }) => {
      const composedMs = context.clock.nowMs();
      const { plan, facts } = composeNext(context.table, composedMs);
      for (const fact of facts) enqueue.emit(fact);
      enqueue.assign({ plan, composedMs });
    }),
    tell: enqueueActions(({ enqueue }, params: { readonly facts: readonly RequestSchedulerFact[] }) => {
      for (const fact of params.facts) enqueue.emit(fact);
    }),
    fail: enqueueActions(({ context, enqueue }, params: { readonly thrown: unknown; readonly underWay: readonly StepPlan[] }) => {
      const { table, clock } = context;
      const error = toLorikeetError(params.thrown);
      const nowMs = clock.nowMs();
      for (const retired of endAll(table, failure(error), nowMs)) enqueue.emit(endedFact(retired));
      for (const plan of params.underWay) settleStep(table, plan, nowMs);
      enqueue.emit({ type: "engine.failed", error });
    }),
    tellDrained: emit({ type: "scheduler.drained" }),
  },
}).createMachine({
  id: "requestScheduler",
  context: ({ input }) => ({ ...input, plan: NO_PLAN, composedMs: 0, isDraining: false }),
  initial: "idle",
  on: {
    "request.submit": { actions: { type: "enqueue", params: ({ event }) => event } },
    "request.cancel": { actions: { type: "cancel", params: ({ event }) => event } },
    "adapter.use": { actions: { type: "use", params: ({ event }) => event } },
    "adapter.block": { actions: { type: "block", params: ({ event }) => event } },
    "adapter.refuse": { actions: { type: "refuse", params: ({ event }) => event } },
    "scheduler.drain": { actions: "startDraining" },
    "scheduler.stop": { actions: ["startDraining", "stopAll"] },
  },
  states: {
    idle: {
      always: [
        { guard: "hasRequests", target: "gathering" },
        { guard: "isDraining", target: "drained" },
      ],
    },
    gathering: {
      invoke: {
        src: "awaitTurn",
        input: ({ context: { yieldTurn } }) => ({ yieldTurn }),
        onDone: "composing",
      },
    },
    composing: {
      entry: "compose",
      always: [
        { guard: "hasPlan", target: "stepping" },
        { guard: "hasRequests", target: "waiting" },
        { target: "idle" },
      ],
    },
    stepping: {
      invoke: { src: "runSteps", input: ({ context }) => context },
      on: {
        "steps.told": { actions: { type: "tell", params: ({ event }) => event } },
        "steps.over": [
          { guard: "hasRequests", target: "waiting", actions: { type: "tell", params: ({ event }) => event } },
          { target: "idle", actions: { type: "tell", params: ({ event }) => event } },
        ],
        "steps.failed": { target: "failed", actions: { type: "fail", params: ({ event }) => event } },
      },
    },
    waiting: {
      after: { nextDeadline: "composing" },
      on: {
        "request.ready": "composing",
        "request.submit": {
          target: "gathering",
          actions: { type: "enqueue", params: ({ event }) => event },
        },
        "request.cancel": {
          target: "composing",
          actions: { type: "cancel", params: ({ event }) => event },
        },
        "adapter.use": {
          target: "composing",
          actions: { type: "use", params: ({ event }) => event },
        },
        "adapter.block": {
          target: "composing",
          actions: { type: "block", params: ({ event }) => event },
        },
        "adapter.refuse": {
          target: "composing",
          actions: { type: "refuse", params: ({ event }) => event },
        },
        "scheduler.stop": { target: "composing", actions: ["startDraining", "stopAll"] },
      },
    },
    drained: { entry: "tellDrained", type: "final" },
    failed: { type: "final" },
  },
});
