/**
 * Reads adapters on demand: each at most once at a time, a few at a time, bad ones not again for a while.
 *
 *   open ── adapter.load ──▶ failed lately: adapter.failed │ being read: nothing │ else queued
 *        ── load.finished ─▶ adapter.loaded or adapter.failed, next of the queue
 *        ── adapter.forget ▶ its load is stopped, next of the queue
 *
 * The loader has one state, since loads are independent of each other; what waits and retries is the
 * child machine of each load.
 */
import { assign, enqueueActions, setup, stopChild } from "xstate";
import type { Clock } from "../../core/clock.ts";
import type { AdapterId } from "../../core/ids.ts";
import { recentFailure, type RecentFailures, withFailure, withoutFailure } from "../recent-failures.ts";
import type {
  AdapterLoaderCommand,
  AdapterLoaderFact,
  LoadFinished,
  LoadOutcome,
  StagedAdapter,
} from "./adapter-loader.events.ts";
import { loadMachine } from "./load.machine.ts";

export interface AdapterLoaderInput {
  readonly read: (adapterId: AdapterId) => Promise<StagedAdapter>;
  readonly clock: Clock;
  /** Adapters read at once; at least 1. */
  readonly maxLoads: number;
  /** Reads per load, where I/O fails; at least 1. */
  readonly maxAttempts: number;
  readonly backoffMs: number;
  /** Longest read; one that hangs would hold its place among `maxLoads` for ever. */
  readonly timeoutMs: number;
  /** For how long a failed adapter is refused without being read again. */
  readonly failureMs: number;
}

interface AdapterLoaderContext extends AdapterLoaderInput {
  /** Being read. */
  readonly active: readonly AdapterId[];
  /** First in, first out. */
  readonly queue: readonly AdapterId[];
  readonly failures: RecentFailures;
}

interface AdapterParam {
  readonly adapterId: AdapterId;
}

export const adapterLoaderMachine = setup({
  types: {
    context: {} as AdapterLoaderContext,
    events: {} as AdapterLoaderCommand | LoadFinished,
    emitted: {} as AdapterLoaderFact,
    input: {} as AdapterLoaderInput,
  },
  actors: { load: loadMachine },
  guards: {
    failedLately: ({ context: { failures, clock } }, { adapterId }: AdapterParam) =>
      recentFailure(failures, adapterId, clock.nowMs()) !== null,
    isUnderWay: ({ context }, { adapterId }: AdapterParam) =>
      context.active.includes(adapterId) || context.queue.includes(adapterId),
  },
  actions: {
    tellFailedAgain: enqueueActions(({ context: { failures, clock }, enqueue }, { adapterId }: AdapterParam) => {
      const error = recentFailure(failures, adapterId, clock.nowMs());
      if (error !== null) enqueue.emit({ type: "adapter.failed", adapterId, error });
    }),
    enqueue: assign({
      queue: ({ context }, { adapterId }: AdapterParam) => [...context.queue, adapterId],
    }),
    startLoads: enqueueActions(({ context, enqueue }) => {
      const { read, maxAttempts, backoffMs, timeoutMs } = context;
      const started = context.queue.slice(0, context.maxLoads - context.active.length);
      for (const adapterId of started) {
        const input = { adapterId, read, maxAttempts, backoffMs, timeoutMs };
        enqueue.spawnChild("load", { id: `load-${adapterId}`, input });
        enqueue.emit({ type: "adapter.reading", adapterId });
      }
      enqueue.assign({
        queue: context.queue.slice(started.length),
        active: [...context.active, ...started],
      });
    }),
    forget: assign(({ context }, { adapterId }: AdapterParam) => ({
      active: context.active.filter((id) => id !== adapterId),
      queue: context.queue.filter((id) => id !== adapterId),
      failures: withoutFailure(context.failures, adapterId),
    })),
    stopLoad: stopChild((_, { adapterId }: AdapterParam) => `load-${adapterId}`),
    tellOutcome: enqueueActions(
      ({ context, enqueue }, params: AdapterParam & { readonly outcome: LoadOutcome }) => {
        const { adapterId, outcome } = params;
        enqueue.assign({ active: context.active.filter((id) => id !== adapterId) });
        if (outcome.error === null) {
          enqueue.emit({ type: "adapter.loaded", adapterId, staged: outcome.staged });
          return;
        }
        const untilMs = context.clock.nowMs() + context.failureMs;
        enqueue.assign({ failures: withFailure(context.failures, adapterId, outcome.error, untilMs) });
        enqueue.emit({ type: "adapter.failed", adapterId, error: outcome.error });
      },
    ),
  },
}).createMachine({
  id: "adapterLoader",
  context: ({ input }) => ({ ...input, active: [], queue: [], failures: new Map() }),
  initial: "open",
  states: {
    open: {
      on: {
        "adapter.load": [
          {
            guard: { type: "failedLately", params: ({ event }) => event },
            actions: { type: "tellFailedAgain", params: ({ event }) => event },
          },
          { guard: { type: "isUnderWay", params: ({ event }) => event } },
          { actions: [{ type: "enqueue", params: ({ event }) => event }, "startLoads"] },
        ],
        "adapter.forget": {
          actions: [
            { type: "stopLoad", params: ({ event }) => event },
            { type: "forget", params: ({ event }) => event },
            "startLoads",
          ],
        },
        "load.finished": {
          actions: [
            { type: "stopLoad", params: ({ event }) => event },
            { type: "tellOutcome", params: ({ event }) => event },
            "startLoads",
          ],
        },
      },
    },
  },
});
