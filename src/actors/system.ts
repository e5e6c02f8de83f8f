/**
 * Makes the four actors and ties each one's facts to the others' commands. Who waits for whom is read here.
 *
 *   scheduler ──wants a slot──▶ slots ──wants an image──▶ cache ──missed──▶ loader
 *       ▲                        │  ▲                       │                 │
 *       └──granted, refused──────┘  └────────found──────────┴────loaded───────┘
 */
import { createActor, type AnyActorRef } from "xstate";
import type { Backend } from "../backend/backend.ts";
import type { Clock } from "../core/clock.ts";
import type { AdapterId, RequestId } from "../core/ids.ts";
import type { Engine } from "../engine/engine.ts";
import type { HostLru } from "../lora/host-lru.ts";
import type { SlotPool } from "../lora/slot-pool.ts";
import type { ScheduleTable } from "../schedule/schedule-table.ts";
import type { Sequence } from "../schedule/sequence.ts";
import type { AdapterLoaderFact, StagedAdapter } from "./adapter-loader/adapter-loader.events.ts";
import { adapterLoaderMachine } from "./adapter-loader/adapter-loader.machine.ts";
import type { HostCacheFact } from "./host-cache/host-cache.events.ts";
import { hostCacheMachine } from "./host-cache/host-cache.machine.ts";
import type { RequestSchedulerFact } from "./request-scheduler/request-scheduler.events.ts";
import { requestSchedulerMachine } from "./request-scheduler/request-scheduler.machine.ts";
import type { SlotAllocatorFact } from "./slot-allocator/slot-allocator.events.ts";
import { slotAllocatorMachine } from "./slot-allocator/slot-allocator.machine.ts";

export type SystemFact =
  RequestSchedulerFact | SlotAllocatorFact | HostCacheFact | AdapterLoaderFact;

type Wires<F extends SystemFact> = { readonly [T in F["type"]]?: (fact: Extract<F, { readonly type: T }>) => void };
interface Emitter<F extends SystemFact> {
  on(type: "*", listener: (fact: F) => void): unknown;
}

export type ActorName = "requestScheduler" | "slotAllocator" | "hostCache" | "adapterLoader";

/** Timers of the actors, so that simulations own them too. */
export interface Timers {
  setTimeout(callback: () => void, delayMs: number): unknown;
  clearTimeout(id: unknown): void;
}

export interface SystemInput {
  readonly table: ScheduleTable;
  readonly engine: Pick<Engine, "runStep">;
  readonly backend: Pick<Backend, "attach" | "detach" | "deviceBytes">;
  readonly pool: SlotPool;
  readonly lru: HostLru<StagedAdapter>;
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
  readonly yieldTurn: () => Promise<void>;
  readonly onStepTime: (elapsedMs: number) => void;
  /** Hears every fact of every actor, for listings and counters. */
  readonly onFact: (fact: SystemFact, actor: ActorName) => void;
  /** Hears of each state that an actor enters. */
  readonly onState: (actor: ActorName, state: string) => void;
  /** An actor has died: a bug. Nothing is served from then on. */
  readonly onFatal: (error: unknown) => void;
}

export interface ActorSystem {
  submit(sequence: Sequence): void;
  cancel(requestId: RequestId): void;
  /** Reads an adapter into host memory ahead of its first request; `adapter.loaded` or `adapter.failed` tells. */
  load(adapterId: AdapterId): void;
  /** Keeps an adapter in host memory and, from its first use on, on the device. */
  pin(adapterId: AdapterId): void;
  /** Frees what an adapter takes, at once or when its last request has ended; no new ones may come. */
  forget(adapterId: AdapterId): void;
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
  const { table, engine, backend, pool, lru, clock, yieldTurn, onStepTime } = input;
  const options = input.timers === null ? {} : { clock: input.timers };
  const scheduler = createActor(requestSchedulerMachine, {
    ...options,
    id: "requestScheduler",
    input: { table, engine, clock, yieldTurn, onStepTime },
  });
  const slots = createActor(slotAllocatorMachine, {
    ...options,
    id: "slotAllocator",
    input: { backend, pool, maxImages: input.maxImages },
  });
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

  /** What an actor's facts mean to the others; those who watch hear a fact before its consequences. */
  const wire = <F extends SystemFact>(name: ActorName, actor: Emitter<F>, wires: Wires<F>): void => {
    actor.on("*", (fact) => {
      input.onFact(fact, name);
      (wires[fact.type as F["type"]] as ((fact: F) => void) | undefined)?.(fact);
    });
  };
  wire<RequestSchedulerFact>("requestScheduler", scheduler, {
    "adapter.wanted": (fact) => slots.send({ ...fact, type: "slot.lease" }),
    "adapter.released": (fact) => slots.send({ ...fact, type: "slot.release" }),
  });
  wire<SlotAllocatorFact>("slotAllocator", slots, {
    "slot.granted": (fact) => scheduler.send({ ...fact, type: "adapter.use" }),
    "slot.blocked": (fact) => scheduler.send({ ...fact, type: "adapter.block" }),
    "slot.refused": (fact) => scheduler.send({ ...fact, type: "adapter.refuse" }),
    "image.wanted": (fact) => cache.send({ ...fact, type: "image.get" }),
  });
  wire<HostCacheFact>("hostCache", cache, {
    "image.found": ({ adapterId, staged }) => slots.send({ type: "image.deliver", adapterId, image: staged.image }),
    "image.missed": (fact) => loader.send({ ...fact, type: "adapter.load" }),
  });
  wire<AdapterLoaderFact>("adapterLoader", loader, {
    "adapter.loaded": ({ adapterId, staged }) => {
      cache.send({ type: "image.put", adapterId, staged });
      slots.send({ type: "image.deliver", adapterId, image: staged.image });
    },
    "adapter.failed": (fact) => slots.send({ ...fact, type: "image.fail" }),
  });

  const actors: readonly (readonly [ActorName, AnyActorRef])[] = [
    ["adapterLoader", loader],
    ["hostCache", cache],
    ["slotAllocator", slots],
    ["requestScheduler", scheduler],
  ];
  for (const [name, actor] of actors) {
    let state = "";
    const see = ({ value }: { readonly value: string }): void => {
      if (value === state) return;
      state = value;
      input.onState(name, value);
    };
    actor.subscribe({ next: see, error: input.onFatal });
    actor.start();
  }
  return {
    submit: (sequence) => scheduler.send({ type: "request.submit", sequence }),
    cancel: (requestId) => scheduler.send({ type: "request.cancel", requestId }),
    load: (adapterId) => loader.send({ type: "adapter.load", adapterId }),
    pin: (adapterId) => {
      cache.send({ type: "image.pin", adapterId });
      slots.send({ type: "slot.pin", adapterId });
    },
    forget: (adapterId) => {
      loader.send({ type: "adapter.forget", adapterId });
      cache.send({ type: "image.forget", adapterId });
      slots.send({ type: "slot.forget", adapterId });
    },
    ready: () => scheduler.send({ type: "request.ready" }),
    drain: () => scheduler.send({ type: "scheduler.drain" }),
    stopRequests: () => scheduler.send({ type: "scheduler.stop" }),
    stop: () => {
      for (const actor of [scheduler, slots, cache, loader]) actor.stop();
    },
  };
}
