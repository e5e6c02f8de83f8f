/**
 * Gives out places on the device: at once where the adapter is there, else as soon as one can be had.
 *
 *   ready ── head of queue has its image, and there is room ──▶ uploading
 *     ▲                                                             │
 *     └────────── done: slot.granted │ error: slot.refused ─────────┘
 *
 * A forgotten adapter is detached in `ready`, once its last lease is given back.
 *
 * Waiters are served first come, first served among those whose image is there. Images are asked for ahead
 * of time for the first `maxImages` of them, so that an upload does not wait for a file; those are held
 * here, beside the host cache's own bytes. One upload at a time: they share the way to the device.
 *
 * Unleased adapters may also have to make room for pages, which the pools settle among themselves; `slot.reclaim` tells of it.
 */
import { assign, emit, enqueueActions, setup } from "xstate";
import type { AdapterImage, Backend } from "../../backend/backend.ts";
import { AdapterError, type LorikeetError, toLorikeetError } from "../../core/errors.ts";
import type { AdapterId, SlotId } from "../../core/ids.ts";
import type { SlotPool } from "../../lora/slot-pool.ts";
import { type Move, nextMove, type Waiter } from "./placement.ts";
import type { SlotAllocatorCommand, SlotAllocatorFact } from "./slot-allocator.events.ts";
import { uploadAdapter, type Upload } from "./upload-adapter.ts";

export interface SlotAllocatorInput {
  readonly backend: Pick<Backend, "attach" | "detach">;
  /** Changed in place. */
  readonly pool: SlotPool;
  /** Images asked for or held by waiters at once; at least 1. */
  readonly maxImages: number;
}

interface SlotAllocatorContext extends SlotAllocatorInput {
  /** First come, first served; the one being uploaded among them. At most one per adapter. */
  readonly waiters: readonly Waiter[];
  readonly upload: Upload | null;
  /** Forgotten, and leased or being uploaded still. */
  readonly leaving: readonly AdapterId[];
}

/** Neither leased, waited for, nor being uploaded. */
const isFree = ({ waiters, upload, pool }: SlotAllocatorContext, adapterId: AdapterId): boolean =>
  !pool.isLeased(adapterId) &&
  upload?.adapterId !== adapterId &&
  waiters.every((waiter) => waiter.adapterId !== adapterId);

const moveOf = ({ waiters, pool }: SlotAllocatorContext): Move => nextMove(waiters, pool);

const without = (waiters: readonly Waiter[], adapterId: AdapterId): readonly Waiter[] =>
  waiters.filter((waiter) => waiter.adapterId !== adapterId);

const changed = (
  waiters: readonly Waiter[],
  adapterId: AdapterId,
  change: Partial<Waiter>,
): readonly Waiter[] =>
  waiters.map((waiter) => (waiter.adapterId === adapterId ? { ...waiter, ...change } : waiter));

const noRoom = (numBytes: number, maxBytes: number): AdapterError =>
  new AdapterError(
    "adapter_too_large",
    `the adapter takes ${numBytes} bytes, and beside the pinned ones no run of the ${maxBytes} bytes for adapters is that long; ` +
      "unload a pinned one, or raise device_cache_percent",
  );

interface AdapterParam {
  readonly adapterId: AdapterId;
}
interface LeaseParam extends AdapterParam {
  readonly leaseNumber: number;
}

export const slotAllocatorMachine = setup({
  types: {
    context: {} as SlotAllocatorContext,
    events: {} as SlotAllocatorCommand,
    emitted: {} as SlotAllocatorFact,
    input: {} as SlotAllocatorInput,
  },
  actors: { uploadAdapter },
  guards: {
    isOnDevice: ({ context }, { adapterId }: AdapterParam) =>
      context.pool.slotOf(adapterId) !== null && context.upload?.adapterId !== adapterId,
    isWaiting: ({ context }, { adapterId }: AdapterParam) =>
      context.waiters.some((waiter) => waiter.adapterId === adapterId),
    can: ({ context }, { kind }: Pick<Move, "kind">) => moveOf(context).kind === kind,
    canLeave: ({ context }) => context.leaving.some((adapterId) => isFree(context, adapterId)),
  },
  actions: {
    grantAgain: enqueueActions(({ context, enqueue }, params: LeaseParam) => {
      const { adapterId, leaseNumber } = params;
      const slot = context.pool.slotOf(adapterId);
      if (slot === null) return;
      context.pool.lease(adapterId);
      enqueue.emit({ type: "slot.granted", adapterId, leaseNumber, slot });
    }),
    enqueue: assign({
      waiters: ({ context }, { adapterId, leaseNumber }: LeaseParam) => [
        ...without(context.waiters, adapterId),
        {
          adapterId,
          leaseNumber,
          image: null,
          isFetching: false,
          isToldBlocked: false,
        },
      ],
    }),
    dequeue: assign({
      waiters: ({ context }, { adapterId }: AdapterParam) => without(context.waiters, adapterId),
    }),
    release: ({ context }, { adapterId }: AdapterParam) => {
      const isSeated = context.pool.slotOf(adapterId) !== null;
      if (isSeated && context.upload?.adapterId !== adapterId) context.pool.release(adapterId);
    },
    pin: ({ context }, { adapterId }: AdapterParam) => context.pool.pin(adapterId),
    startLeaving: assign({
      leaving: ({ context }, { adapterId }: AdapterParam) => {
        context.pool.unpin(adapterId);
        return [...context.leaving, adapterId];
      },
    }),
    leave: enqueueActions(({ context, enqueue }) => {
      const { leaving, pool, backend } = context;
      const gone = leaving.filter((adapterId) => isFree(context, adapterId));
      for (const adapterId of gone) {
        if (pool.slotOf(adapterId) === null) continue;
        const slot = pool.evict(adapterId);
        backend.detach(slot);
        enqueue.emit({ type: "slot.evicted", adapterId, slot });
      }
      enqueue.assign({ leaving: leaving.filter((adapterId) => !gone.includes(adapterId)) });
    }),
    forgetBlocked: assign({
      waiters: ({ context }) =>
        context.waiters.map((waiter) => ({ ...waiter, isToldBlocked: false })),
    }),
    takeImage: assign({
      waiters: ({ context }, params: AdapterParam & { readonly image: AdapterImage }) =>
        changed(context.waiters, params.adapterId, { image: params.image, isFetching: false }),
    }),
    refuse: enqueueActions(
      ({ context, enqueue }, params: AdapterParam & { readonly error: LorikeetError }) => {
        const { adapterId, error } = params;
        const waiter = context.waiters.find((each) => each.adapterId === adapterId);
        if (waiter === undefined) return;
        const { leaseNumber } = waiter;
        enqueue.assign({ waiters: without(context.waiters, adapterId) });
        enqueue.emit({ type: "slot.refused", adapterId, leaseNumber, error });
      },
    ),
    wantImages: enqueueActions(({ context, enqueue }) => {
      let numImages = 0;
      const waiters = context.waiters.map((waiter) => {
        if (numImages >= context.maxImages) return waiter;
        numImages++;
        const isUploading = context.upload?.adapterId === waiter.adapterId;
        if (waiter.image !== null || waiter.isFetching || isUploading) return waiter;
        enqueue.emit({ type: "image.wanted", adapterId: waiter.adapterId });
        return { ...waiter, isFetching: true };
      });
      enqueue.assign({ waiters });
    }),
    tellBlocked: enqueueActions(({ context, enqueue }) => {
      if (context.upload !== null) return;
      const move = moveOf(context);
      context.pool.claimRoom(move.kind === "wait" ? move.claimedBytes : null);
      if (move.kind !== "wait") return;
      const waiters = context.waiters.map((waiter) => {
        if (waiter.image === null || waiter.isToldBlocked) return waiter;
        const { adapterId, leaseNumber } = waiter;
        enqueue.emit({ type: "slot.blocked", adapterId, leaseNumber });
        return { ...waiter, isToldBlocked: true };
      });
      enqueue.assign({ waiters });
    }),
    evict: enqueueActions(({ context, enqueue }) => {
      const { pool, backend } = context;
      const move = moveOf(context);
      if (move.kind !== "evict" && move.kind !== "place") return;
      for (const adapterId of move.evicted) {
        const slot = pool.evict(adapterId);
        backend.detach(slot);
        enqueue.emit({ type: "slot.evicted", adapterId, slot });
      }
    }),
    tellReclaimed: emit((_, params: { readonly adapterId: AdapterId; readonly slot: SlotId }) => ({ ...params, type: "slot.evicted" as const })),
    refuseHopeless: enqueueActions(({ context, enqueue }) => {
      const { waiters, pool } = context;
      const move = moveOf(context);
      if (move.kind !== "refuse") return;
      const { adapterId, leaseNumber } = move.waiter;
      enqueue.assign({ waiters: without(waiters, adapterId) });
      enqueue.emit({ type: "slot.refused", adapterId, leaseNumber, error: noRoom(move.image.numBytes, pool.maxBytes) });
    }),
    place: enqueueActions(({ context, enqueue }) => {
      const move = moveOf(context);
      if (move.kind !== "place") return;
      const { adapterId } = move.waiter;
      const { slot, extent } = context.pool.seat(adapterId, move.image.numBytes);
      enqueue.assign({ upload: { adapterId, image: move.image, slot, extent } });
    }),
    finishUpload: enqueueActions(({ context, enqueue }) => {
      const { upload, waiters, pool } = context;
      if (upload === null) return;
      const { adapterId, slot } = upload;
      const waiter = waiters.find((each) => each.adapterId === adapterId);
      enqueue.assign({ upload: null, waiters: without(waiters, adapterId) });
      enqueue.emit({ type: "slot.filled", adapterId, slot });
      if (waiter === undefined) pool.release(adapterId);
      else enqueue.emit({ type: "slot.granted", adapterId, leaseNumber: waiter.leaseNumber, slot });
    }),
    undoUpload: assign({
      upload: ({ context: { upload, pool } }) => {
        if (upload !== null) pool.unseat(upload.adapterId);
        return null;
      },
    }),
    refuseUpload: enqueueActions(({ context, enqueue }, params: { readonly error: unknown }) => {
      const { upload, waiters } = context;
      const waiter = waiters.find((each) => each.adapterId === upload?.adapterId);
      if (waiter === undefined) return;
      const { adapterId, leaseNumber } = waiter;
      enqueue.assign({ waiters: without(waiters, adapterId) });
      const error = toLorikeetError(params.error);
      enqueue.emit({ type: "slot.refused", adapterId, leaseNumber, error });
    }),
  },
}).createMachine({
  id: "slotAllocator",
  context: ({ input }) => ({ ...input, waiters: [], upload: null, leaving: [] }),
  initial: "ready",
  on: {
    "slot.lease": [
      {
        guard: { type: "isOnDevice", params: ({ event }) => event },
        actions: { type: "grantAgain", params: ({ event }) => event },
      },
      { actions: [{ type: "enqueue", params: ({ event }) => event }, "wantImages"] },
    ],
    "slot.release": [
      {
        guard: { type: "isWaiting", params: ({ event }) => event },
        actions: [
          { type: "dequeue", params: ({ event }) => event },
          "forgetBlocked",
          "wantImages",
          "tellBlocked",
        ],
      },
      {
        actions: [
          { type: "release", params: ({ event }) => event },
          "forgetBlocked",
          "tellBlocked",
        ],
      },
    ],
    "slot.reclaim": { actions: { type: "tellReclaimed", params: ({ event: { adapterId, slot } }) => ({ adapterId, slot }) } },
    // Whatever waits is looked at again.
    "slot.room": { actions: "tellBlocked" },
    "slot.pin": { actions: { type: "pin", params: ({ event }) => event } },
    "slot.forget": { actions: { type: "startLeaving", params: ({ event }) => event } },
    "image.deliver": {
      actions: [{ type: "takeImage", params: ({ event }) => event }, "tellBlocked"],
    },
    "image.fail": {
      actions: [{ type: "refuse", params: ({ event }) => event }, "wantImages"],
    },
  },
  states: {
    ready: {
      entry: ["wantImages", "tellBlocked"],
      always: [
        { guard: "canLeave", actions: "leave" },
        { guard: { type: "can", params: { kind: "refuse" } }, actions: ["refuseHopeless", "wantImages"] },
        { guard: { type: "can", params: { kind: "evict" } }, actions: ["evict", "tellBlocked"] },
        { guard: { type: "can", params: { kind: "place" } }, target: "uploading", actions: ["evict", "place"] },
      ],
    },
    uploading: {
      invoke: {
        src: "uploadAdapter",
        input: ({ context: { backend, upload } }) => ({ backend, upload }),
        onDone: { target: "ready", actions: "finishUpload" },
        onError: {
          target: "ready",
          actions: [{ type: "refuseUpload", params: ({ event }) => ({ error: event.error }) }, "undoUpload"],
        },
      },
    },
  },
});
