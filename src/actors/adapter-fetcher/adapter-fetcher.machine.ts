/**
 * Brings adapters that are elsewhere to this machine when they are first wanted, ahead of slots and reads: what takes
 * minutes holds no place that others need.
 *
 *   open ── fetch.want ─────▶ failed lately: adapter.failed, fetch.refused │ under way: waits │ else adapter.fetching
 *        ── fetch.finished ─▶ adapter.fetched, fetch.done for each who waits │ adapter.failed, fetch.refused for each lease
 *        ── fetch.release ──▶ one waits no more
 *        ── fetch.forget ───▶ its download is stopped
 *
 * One state, since downloads are independent of each other; how many go on at once, retries and time limits are the
 * sources' business.
 */
import { assign, enqueueActions, setup, stopChild } from "xstate";
import type { Clock } from "../../core/clock.ts";
import type { LorikeetError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";
import { recentFailure, type RecentFailures, withFailure, withoutFailure } from "../recent-failures.ts";
import type { AdapterFetcherCommand, AdapterFetcherFact, FetchFinished, FetchPurpose } from "./adapter-fetcher.events.ts";
import { fetchAdapter, type FetchAdapterInput } from "./fetch-adapter.ts";

export interface AdapterFetcherInput {
  readonly fetch: FetchAdapterInput["fetch"];
  readonly clock: Clock;
  /** For how long an adapter that could not be had is refused without being asked for again. */
  readonly failureMs: number;
}

interface AdapterFetcherContext extends AdapterFetcherInput {
  /** Under way, with what for. */
  readonly active: ReadonlyMap<AdapterId, readonly FetchPurpose[]>;
  readonly failures: RecentFailures;
}

interface AdapterParam {
  readonly adapterId: AdapterId;
}
interface WantParam extends AdapterParam {
  readonly leaseNumber: FetchPurpose;
}

const without = (active: AdapterFetcherContext["active"], adapterId: AdapterId): AdapterFetcherContext["active"] =>
  new Map([...active].filter(([id]) => id !== adapterId));

export const adapterFetcherMachine = setup({
  types: {
    context: {} as AdapterFetcherContext,
    events: {} as AdapterFetcherCommand | FetchFinished,
    emitted: {} as AdapterFetcherFact,
    input: {} as AdapterFetcherInput,
  },
  actors: { fetch: fetchAdapter },
  guards: {
    failedLately: ({ context: { failures, clock } }, { adapterId }: AdapterParam) =>
      recentFailure(failures, adapterId, clock.nowMs()) !== null,
    isUnderWay: ({ context }, { adapterId }: AdapterParam) => context.active.has(adapterId),
    isGood: (_, { error }: { readonly error: LorikeetError | null }) => error === null,
  },
  actions: {
    refuseAgain: enqueueActions(({ context: { failures, clock }, enqueue }, { adapterId, leaseNumber }: WantParam) => {
      const error = recentFailure(failures, adapterId, clock.nowMs());
      if (error === null) return;
      enqueue.emit({ type: "adapter.failed", adapterId, error });
      if (leaseNumber !== null) enqueue.emit({ type: "fetch.refused", adapterId, leaseNumber, error });
    }),
    wait: assign({
      active: ({ context: { active } }, { adapterId, leaseNumber }: WantParam) =>
        new Map([...active, [adapterId, [...(active.get(adapterId) ?? []), leaseNumber]]]),
    }),
    start: enqueueActions(({ context: { fetch }, enqueue }, { adapterId }: AdapterParam) => {
      enqueue.spawnChild("fetch", { id: `fetch-${adapterId}`, input: { adapterId, fetch } });
      enqueue.emit({ type: "adapter.fetching", adapterId });
    }),
    waitNoMore: assign({
      active: ({ context: { active } }, { adapterId, leaseNumber }: WantParam) =>
        new Map([...active].map(([id, wants]) => [id, id === adapterId ? wants.filter((each) => each !== leaseNumber) : wants])),
    }),
    stop: stopChild((_, { adapterId }: AdapterParam) => `fetch-${adapterId}`),
    forget: assign({
      active: ({ context: { active } }, { adapterId }: AdapterParam) => without(active, adapterId),
      failures: ({ context: { failures } }, { adapterId }: AdapterParam) => withoutFailure(failures, adapterId),
    }),
    tellDone: enqueueActions(({ context: { active }, enqueue }, { adapterId }: AdapterParam) => {
      enqueue.assign({ active: without(active, adapterId) });
      enqueue.emit({ type: "adapter.fetched", adapterId });
      for (const leaseNumber of active.get(adapterId) ?? []) enqueue.emit({ type: "fetch.done", adapterId, leaseNumber });
    }),
    tellFailed: enqueueActions(({ context: { active, failures, clock, failureMs }, enqueue }, { adapterId, error }: FetchFinished) => {
      if (error === null) return;
      enqueue.assign({ active: without(active, adapterId), failures: withFailure(failures, adapterId, error, clock.nowMs() + failureMs) });
      enqueue.emit({ type: "adapter.failed", adapterId, error });
      for (const leaseNumber of active.get(adapterId) ?? []) {
        if (leaseNumber !== null) enqueue.emit({ type: "fetch.refused", adapterId, leaseNumber, error });
      }
    }),
  },
}).createMachine({
  id: "adapterFetcher",
  context: ({ input }) => ({ ...input, active: new Map(), failures: new Map() }),
  initial: "open",
  states: {
    open: {
      on: {
        "fetch.want": [
          {
            guard: { type: "failedLately", params: ({ event }) => event },
            actions: { type: "refuseAgain", params: ({ event }) => event },
          },
          {
            guard: { type: "isUnderWay", params: ({ event }) => event },
            actions: { type: "wait", params: ({ event }) => event },
          },
          { actions: [{ type: "wait", params: ({ event }) => event }, { type: "start", params: ({ event }) => event }] },
        ],
        "fetch.release": { actions: { type: "waitNoMore", params: ({ event }) => event } },
        "fetch.forget": {
          actions: [{ type: "stop", params: ({ event }) => event }, { type: "forget", params: ({ event }) => event }],
        },
        "fetch.finished": [
          {
            guard: { type: "isGood", params: ({ event }) => event },
            actions: [{ type: "stop", params: ({ event }) => event }, { type: "tellDone", params: ({ event }) => event }],
          },
          { actions: [{ type: "stop", params: ({ event }) => event }, { type: "tellFailed", params: ({ event }) => event }] },
        ],
      },
    },
  },
});
