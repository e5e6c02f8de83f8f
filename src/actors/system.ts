/**
 * Makes the five actors and ties each one's facts to the others' commands. Who waits for whom is read here.
 *
 *   scheduler ──wants a slot──▶ slots ──wants an image──▶ cache ──missed──▶ loader
 *     │ ▲ ▲                      ▲ │ ▲                       │                 │
 *     │ │ └──granted, refused────┼─┘ └────────found──────────┴────loaded───────┘
 *     │ └──refused── fetcher ──done
 *     └──of what is elsewhere ─▶┘
 */
import { createActor, type ActorRefFrom, type AnyActorRef } from "xstate";
import type { Backend } from "../backend/backend.ts";
import type { Clock } from "../core/clock.ts";
import type { AdapterId, RequestId } from "../core/ids.ts";
import type { HostLru } from "../lora/host-lru.ts";
import type { SlotPool } from "../lora/slot-pool.ts";
import type { Sequence } from "../schedule/sequence.ts";
import type { AdapterFetcherFact } from "./adapter-fetcher/adapter-fetcher.events.ts";
import { adapterFetcherMachine } from "./adapter-fetcher/adapter-fetcher.machine.ts";
import type { AdapterLoaderFact, StagedAdapter } from "./adapter-loader/adapter-loader.events.ts";
import { adapterLoaderMachine } from "./adapter-loader/adapter-loader.machine.ts";
import type { HostCacheFact } from "./host-cache/host-cache.events.ts";
import { hostCacheMachine } from "./host-cache/host-cache.machine.ts";
import type { RequestSchedulerFact } from "./request-scheduler/request-scheduler.events.ts";
import { requestSchedulerMachine, type RequestSchedulerInput } from "./request-scheduler/request-scheduler.machine.ts";
import type { SlotAllocatorFact } from "./slot-allocator/slot-allocator.events.ts";
import { slotAllocatorMachine } from "./slot-allocator/slot-allocator.machine.ts";

export type SystemFact =
  RequestSchedulerFact | SlotAllocatorFact | HostCacheFact | AdapterLoaderFact | AdapterFetcherFact;

type Wires<F extends SystemFact> = { readonly [T in F["type"]]?: (fact: Extract<F, { readonly type: T }>) => void };
interface Emitter<F extends SystemFact> {
  on(type: "*", listener: (fact: F) => void): unknown;
}

export type ActorName = "requestScheduler" | "slotAllocator" | "hostCache" | "adapterLoader" | "adapterFetcher";

/** Timers of the actors, so that simulations own them too. */
export interface Timers {
  setTimeout(callback: () => void, delayMs: number): unknown;
  clearTimeout(id: unknown): void;
}

export interface TiersInput {
  readonly backend: Pick<Backend, "attach" | "detach">;
  readonly pool: SlotPool;
  readonly lru: HostLru<StagedAdapter>;
  /** Whether an adapter's files are not on this machine yet. */
  readonly isElsewhere: (adapterId: AdapterId) => boolean;
  /** Brings them here. */
  readonly fetchAdapter: (adapterId: AdapterId, signal: AbortSignal) => Promise<void>;
  /** Reads, checks and stages one adapter. */
  readonly readAdapter: (adapterId: AdapterId) => Promise<StagedAdapter>;
  readonly maxImages: number;
  readonly maxLoads: number;
  readonly maxLoadAttempts: number;
  readonly loadBackoffMs: number;
  readonly loadTimeoutMs: number;
  readonly loadFailureMs: number;
  readonly clock: Clock;
  readonly timers: Timers | null;
  /** Hears every fact of every actor, for listings and counters. */
  readonly onFact: (fact: SystemFact, actor: ActorName) => void;
  /** Hears of each state that an actor enters. */
  readonly onState: (actor: ActorName, state: string) => void;
  /** An actor has died: a bug. Nothing is served from then on. */
  readonly onFatal: (error: unknown) => void;
}

export interface SystemInput extends TiersInput, RequestSchedulerInput {}

/** What holds adapters, whoever asks for them. */
export interface Tiers {
  readonly slots: ActorRefFrom<typeof slotAllocatorMachine>;
  /** Wants a slot for an adapter, wherever that is; answered once, by the slots or the fetcher, unless released before. */
  readonly lease: (adapterId: AdapterId, leaseNumber: number) => void;
  /** Gives a lease back, granted or not. */
  readonly release: (adapterId: AdapterId, leaseNumber: number) => void;
  /** Reads an adapter into host memory ahead of its first request; `adapter.loaded` or `adapter.failed` tells. */
  readonly load: (adapterId: AdapterId) => void;
  /** Keeps an adapter in host memory and, from its first use on, on the device. */
  readonly pin: (adapterId: AdapterId) => void;
  /** Frees what an adapter takes, at once or when its last request has ended; no new ones may come. */
  readonly forget: (adapterId: AdapterId) => void;
  readonly stop: () => void;
}

export interface ActorSystem extends Pick<Tiers, "load" | "pin" | "forget"> {
  submit(sequence: Sequence): void;
  cancel(requestId: RequestId): void;
  /** A sequence that could not take part in steps now can. */
  ready(): void;
  /** Lets everything queued end; `scheduler.drained` tells when. */
  drain(): void;
  /** Ends everything with `shutdown`; `scheduler.drained` tells when. */
  stopRequests(): void;
  /** Stops all actors at once. */
  stop(): void;
}

export function startSystem(input: SystemInput): ActorSystem {
  const { table, engine, stepsAhead, clock, yieldTurn, onStepTime } = input;
  const scheduler = createActor(requestSchedulerMachine, {
    ...clockOf(input),
    id: "requestScheduler",
    input: { table, engine, stepsAhead, clock, yieldTurn, onStepTime },
  });
  const { lease, release, load, pin, forget, stop } = startTiers(input, {
    "slot.granted": (fact) => scheduler.send({ ...fact, type: "adapter.use" }),
    "slot.blocked": (fact) => scheduler.send({ ...fact, type: "adapter.block" }),
    "slot.refused": (fact) => scheduler.send({ ...fact, type: "adapter.refuse" }),
    "fetch.refused": (fact) => scheduler.send({ ...fact, type: "adapter.refuse" }),
  });
  wire<RequestSchedulerFact>(input, "requestScheduler", scheduler, {
    "adapter.wanted": ({ adapterId, leaseNumber }) => lease(adapterId, leaseNumber),
    "adapter.released": ({ adapterId, leaseNumber }) => release(adapterId, leaseNumber),
  });
  start(input, "requestScheduler", scheduler);
  return {
    load,
    pin,
    forget,
    submit: (sequence) => scheduler.send({ type: "request.submit", sequence }),
    cancel: (requestId) => scheduler.send({ type: "request.cancel", requestId }),
    ready: () => scheduler.send({ type: "request.ready" }),
    drain: () => scheduler.send({ type: "scheduler.drain" }),
    stopRequests: () => scheduler.send({ type: "scheduler.stop" }),
    stop: () => {
      scheduler.stop();
      stop();
    },
  };
}

/**
 * The four actors below the scheduler.
 *
 * @param toScheduler what the answers of slots and fetcher mean to whoever leases
 */
export function startTiers(input: TiersInput, toScheduler: Wires<SlotAllocatorFact | AdapterFetcherFact> = {}): Tiers {
  const { backend, pool, lru, clock } = input;
  const options = clockOf(input);
  const slots = createActor(slotAllocatorMachine, {
    ...options,
    id: "slotAllocator",
    input: { backend, pool, maxImages: input.maxImages },
  });
  pool.onReclaim = ({ adapterId, slot }) => {
    backend.detach(slot);
    slots.send({ type: "slot.reclaim", adapterId, slot });
  };
  pool.onRoom = () => slots.send({ type: "slot.room" });
  const cache = createActor(hostCacheMachine, { ...options, id: "hostCache", input: { lru } });
  const loader = createActor(adapterLoaderMachine, {
    ...options,
    id: "adapterLoader",
    input: {
      read: input.readAdapter,
      clock,
      maxLoads: input.maxLoads,
      maxAttempts: input.maxLoadAttempts,
      backoffMs: input.loadBackoffMs,
      timeoutMs: input.loadTimeoutMs,
      failureMs: input.loadFailureMs,
    },
  });
  const fetcher = createActor(adapterFetcherMachine, {
    ...options,
    id: "adapterFetcher",
    input: { fetch: input.fetchAdapter, clock, failureMs: input.loadFailureMs },
  });
  const load = (adapterId: AdapterId): void => loader.send({ type: "adapter.load", adapterId });
  const lease = (adapterId: AdapterId, leaseNumber: number): void => slots.send({ type: "slot.lease", adapterId, leaseNumber });
  wire<AdapterFetcherFact>(input, "adapterFetcher", fetcher, {
    ...toScheduler,
    "fetch.done": ({ adapterId, leaseNumber }) => (leaseNumber === null ? load(adapterId) : lease(adapterId, leaseNumber)),
  });
  wire<SlotAllocatorFact>(input, "slotAllocator", slots, {
    ...toScheduler,
    "image.wanted": (fact) => cache.send({ ...fact, type: "image.get" }),
  });
  wire<HostCacheFact>(input, "hostCache", cache, {
    "image.found": ({ adapterId, staged }) => slots.send({ type: "image.deliver", adapterId, image: staged.image }),
    "image.missed": ({ adapterId }) => load(adapterId),
  });
  wire<AdapterLoaderFact>(input, "adapterLoader", loader, {
    "adapter.loaded": ({ adapterId, staged }) => {
      cache.send({ type: "image.put", adapterId, staged });
      slots.send({ type: "image.deliver", adapterId, image: staged.image });
    },
    "adapter.failed": (fact) => slots.send({ ...fact, type: "image.fail" }),
  });
  start(input, "adapterFetcher", fetcher);
  start(input, "adapterLoader", loader);
  start(input, "hostCache", cache);
  start(input, "slotAllocator", slots);
  return {
    slots,
    lease: (adapterId, leaseNumber) => {
      if (input.isElsewhere(adapterId)) fetcher.send({ type: "fetch.want", adapterId, leaseNumber });
      else lease(adapterId, leaseNumber);
    },
    release: (adapterId, leaseNumber) => {
      // Its files may be here while the fetcher has not told so yet: whoever knows the lease takes it back.
      fetcher.send({ type: "fetch.release", adapterId, leaseNumber });
      slots.send({ type: "slot.release", adapterId, leaseNumber });
    },
    load: (adapterId) => {
      if (input.isElsewhere(adapterId)) fetcher.send({ type: "fetch.want", adapterId, leaseNumber: null });
      else load(adapterId);
    },
    pin: (adapterId) => {
      cache.send({ type: "image.pin", adapterId });
      slots.send({ type: "slot.pin", adapterId });
    },
    forget: (adapterId) => {
      fetcher.send({ type: "fetch.forget", adapterId });
      loader.send({ type: "adapter.forget", adapterId });
      cache.send({ type: "image.forget", adapterId });
      slots.send({ type: "slot.forget", adapterId });
    },
    stop: () => {
      for (const actor of [slots, cache, loader, fetcher]) actor.stop();
    },
  };
}

const clockOf = ({ timers }: TiersInput): { readonly clock?: Timers } => (timers === null ? {} : { clock: timers });

/** What an actor's facts mean to the others; those who watch hear a fact before its consequences. */
function wire<F extends SystemFact>({ onFact }: TiersInput, name: ActorName, actor: Emitter<F>, wires: Wires<F>): void {
  actor.on("*", (fact) => {
    onFact(fact, name);
    (wires[fact.type as F["type"]] as ((fact: F) => void) | undefined)?.(fact);
  });
}

function start({ onState, onFatal }: TiersInput, name: ActorName, actor: AnyActorRef): void {
  let state = "";
  const see = ({ value }: { readonly value: string }): void => {
    if (value === state) return;
    state = value;
    onState(name, value);
  };
  actor.subscribe({ next: see, error: onFatal });
  actor.start();
}
