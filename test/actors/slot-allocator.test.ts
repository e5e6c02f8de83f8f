import { describe, expect, test } from "bun:test";
import { createActor, fromPromise } from "xstate";
import { nextMove, type Room, type Waiter } from "../../src/actors/slot-allocator/placement.ts";
import type { SlotAllocatorFact } from "../../src/actors/slot-allocator/slot-allocator.events.ts";
import { slotAllocatorMachine } from "../../src/actors/slot-allocator/slot-allocator.machine.ts";
import type { UploadAdapterInput } from "../../src/actors/slot-allocator/upload-adapter.ts";
import { AdapterError, NativeError } from "../../src/core/errors.ts";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asAdapterId } from "../../src/core/ids.ts";
import { SlotPool } from "../../src/lora/slot-pool.ts";

const image = (name: string, numBytes = 10) => ({ digest: name, numBytes });
const A = asAdapterId(1);
const B = asAdapterId(2);
const C = asAdapterId(3);

interface Pending {
  readonly upload: UploadAdapterInput["upload"];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** An allocator whose uploads end when the test says so. */
function open(numSlots: number, maxImages = 4, maxBytes = 100, numExtents = maxBytes) {
  const uploads: Pending[] = [];
  const facts: string[] = [];
  const detached: number[] = [];
  const extents = new ExtentPool(numExtents);
  const pool = new SlotPool({ numSlots, maxBytes, extents, extentBytes: 1 });
  const machine = slotAllocatorMachine.provide({
    actors: {
      uploadAdapter: fromPromise<void, UploadAdapterInput>(
        ({ input }) =>
          new Promise((resolve, reject) => {
            uploads.push({ upload: input.upload, resolve, reject });
          }),
      ),
    },
  });
  const actor = createActor(machine, {
    input: {
      pool,
      maxImages,
      backend: {
        attach: () => Promise.resolve(),
        detach: (slot) => detached.push(slot),
      },
    },
  });
  const show = (fact: SlotAllocatorFact) => {
    const slot = "slot" in fact ? `@${fact.slot}` : "";
    const error = "error" in fact ? ` ${fact.error.errorCode}` : "";
    facts.push(`${fact.type} ${fact.adapterId}${slot}${error}`);
  };
  actor.on("*", show);
  actor.start();
  let leaseNumber = 1;
  return {
    actor,
    extents,
    pool,
    uploads,
    detached,
    lease: (adapterId: typeof A) =>
      actor.send({ type: "slot.lease", adapterId, leaseNumber: leaseNumber++ }),
    release: (adapterId: typeof A) =>
      actor.send({ type: "slot.release", adapterId, leaseNumber: 0 }),
    deliver: (adapterId: typeof A, numBytes = 10) =>
      actor.send({ type: "image.deliver", adapterId, image: image(`${adapterId}`, numBytes) }),
    /** Ends the oldest upload and lets the machine hear of it. */
    finish: async (error?: unknown) => {
      const pending = uploads.shift()!;
      if (error === undefined) pending.resolve();
      else pending.reject(error);
      await Bun.sleep(0);
    },
    /** The facts since the last call. */
    heard: () => facts.splice(0),
  };
}

describe("slot allocator", () => {
  test("asks for the image, uploads it, and grants the slot", async () => {
    const slots = open(2);
    slots.lease(A);
    expect(slots.heard()).toEqual(["image.wanted 1"]);
    slots.deliver(A);
    expect(slots.uploads[0]?.upload).toMatchObject({ adapterId: A, slot: 0, extent: 90 });
    expect(slots.heard()).toEqual([]);
    await slots.finish();
    expect(slots.heard()).toEqual(["slot.filled 1@0", "slot.granted 1@0"]);
  });

  test("grants at once what is on the device", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    await slots.finish();
    slots.release(A);
    slots.heard();
    slots.lease(A);
    expect(slots.heard()).toEqual(["slot.granted 1@0"]);
    expect(slots.uploads).toEqual([]);
  });

  test("takes the slot of the adapter that nobody has used the longest", async () => {
    const slots = open(2);
    for (const adapter of [A, B]) {
      slots.lease(adapter);
      slots.deliver(adapter);
      await slots.finish();
    }
    slots.release(B);
    slots.release(A);
    slots.lease(C);
    slots.heard();
    slots.deliver(C);
    expect(slots.heard()).toEqual(["slot.evicted 2@1"]);
    expect(slots.uploads[0]?.upload).toMatchObject({ slot: 1 });
    expect(slots.detached).toEqual([1]);
  });

  test("never takes a leased slot: says that it is blocked, and goes on at a release", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    await slots.finish();
    slots.lease(B);
    slots.heard();
    slots.deliver(B);
    expect(slots.heard()).toEqual(["slot.blocked 2"]);
    expect(slots.uploads).toEqual([]);
    slots.release(A);
    expect(slots.heard()).toEqual(["slot.evicted 1@0"]);
    // The former holder queues up behind.
    slots.lease(A);
    await slots.finish();
    expect(slots.heard()).toEqual(["image.wanted 1", "slot.filled 2@0", "slot.granted 2@0"]);
  });

  test("asks for no more images ahead than it may, and for the next one as soon as it may", () => {
    const slots = open(1, 2);
    for (const adapter of [A, B, C]) slots.lease(adapter);
    expect(slots.heard()).toEqual(["image.wanted 1", "image.wanted 2"]);
    slots.actor.send({
      type: "image.fail",
      adapterId: A,
      error: new AdapterError("adapter_invalid", "bad"),
    });
    expect(slots.heard()).toEqual(["slot.refused 1 adapter_invalid", "image.wanted 3"]);
  });

  test("a slow image holds up nobody whose image is there", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.lease(B);
    slots.deliver(B);
    await slots.finish();
    expect(slots.heard().at(-1)).toBe("slot.granted 2@0");
  });

  test("keeps an adapter whose lease was given back during the upload, for whoever comes next", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    slots.release(A);
    slots.heard();
    await slots.finish();
    expect(slots.heard()).toEqual(["slot.filled 1@0"]);
    expect(slots.pool.unleased()).toHaveLength(1);
    slots.lease(A);
    expect(slots.heard()).toEqual(["slot.granted 1@0"]);
  });

  test("grants the newer lease when one is given back and taken again during the upload", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    slots.release(A);
    slots.lease(A);
    await slots.finish();
    expect(slots.heard().filter((fact) => fact.startsWith("slot.granted"))).toHaveLength(1);
    expect(slots.pool.unleased()).toEqual([]);
  });

  test("claims the best run of memory where pages are in the way of every one, and takes it when they have gone", async () => {
    const slots = open(2, 4, 10, 20);
    const pages = Array.from({ length: 15 }, () => slots.extents.takeOne()!);
    slots.lease(A);
    slots.deliver(A, 8);
    expect(slots.heard()).toEqual(["image.wanted 1", "slot.blocked 1"]);
    const inTheWay = pages.filter((page) => slots.extents.isClaimed(page));
    expect(inTheWay).toEqual([12, 13, 14]);
    // What comes free elsewhere is a page again, what comes free here is not.
    slots.extents.free(0, 1);
    expect(slots.extents.takeOne()).toBe(0);
    for (const page of inTheWay) {
      expect(slots.extents.takeOne()).toBeNull();
      expect(slots.uploads).toEqual([]);
      slots.extents.free(page, 1);
    }
    slots.actor.send({ type: "slot.room" });
    expect(slots.uploads[0]?.upload).toMatchObject({ adapterId: A, extent: 12 });
  });

  test("gives the claim up when nobody waits for it any more", () => {
    const slots = open(2, 4, 10, 20);
    for (let i = 0; i < 15; i++) slots.extents.takeOne();
    slots.lease(A);
    slots.deliver(A, 8);
    expect(slots.extents.numAvailable).toBe(0);
    slots.release(A);
    expect(slots.extents.numAvailable).toBe(5);
  });

  test("refuses what has no place beside the pinned ones, and nothing else", async () => {
    const slots = open(3, 4, 100, 100);
    slots.actor.send({ type: "slot.pin", adapterId: A });
    slots.lease(A);
    slots.deliver(A, 30);
    await slots.finish();
    slots.release(A);
    slots.lease(B);
    slots.lease(C);
    slots.heard();
    slots.deliver(B, 71);
    slots.deliver(C, 70);
    expect(slots.heard()).toEqual(["slot.refused 2 adapter_too_large"]);
    await slots.finish();
    expect(slots.heard()).toEqual(["slot.filled 3@1", "slot.granted 3@1"]);
  });

  test("tells of an adapter that made room for pages, and has it uploaded again when it is asked for", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    await slots.finish();
    slots.release(A);
    slots.heard();
    slots.pool.onReclaim = (gone) => slots.actor.send({ type: "slot.reclaim", ...gone });
    for (let i = 0; i < 91; i++) slots.extents.takeOne();
    expect(slots.heard()).toEqual(["slot.evicted 1@0"]);
    expect(slots.extents.numAvailable).toBe(9);
    slots.lease(A);
    expect(slots.heard()).toEqual(["image.wanted 1"]);
  });

  test("a failed upload refuses one adapter and frees its slot", async () => {
    const slots = open(1);
    slots.lease(A);
    slots.deliver(A);
    slots.heard();
    await slots.finish(new NativeError("backend_failed", "gone"));
    expect(slots.heard()).toEqual(["slot.refused 1 backend_failed"]);
    slots.lease(B);
    slots.deliver(B);
    await slots.finish();
    expect(slots.heard().at(-1)).toBe("slot.granted 2@0");
  });

  test("ignores images and failures that nobody waits for", () => {
    const slots = open(1);
    slots.deliver(A);
    slots.release(A);
    slots.actor.send({
      type: "image.fail",
      adapterId: B,
      error: new AdapterError("adapter_invalid", "bad"),
    });
    expect(slots.heard()).toEqual([]);
    expect(slots.actor.getSnapshot().status).toBe("active");
  });
});

describe("the next move", () => {
  const waiter = (changes: Partial<Waiter> = {}): Waiter => ({
    adapterId: A,
    leaseNumber: 1,
    image: image("a", 50),
    isFetching: false,
    isToldBlocked: false,
    ...changes,
  });
  const two = [
    { adapterId: B, numBytes: 20 },
    { adapterId: C, numBytes: 20 },
  ];
  const room = (changes: Partial<Room>): Room => ({
    numFree: 1,
    maxBytes: 90,
    freeBytes: 50,
    pinnedBytes: 0,
    roundUp: (numBytes) => numBytes,
    hasRoom: () => true,
    mayHaveRoom: () => true,
    unleased: () => two,
    ...changes,
  });

  test.each<[string, Partial<Room>, object]>([
    ["room as it is", {}, { kind: "place", evicted: [] }],
    ["a slot too few", { numFree: 0 }, { kind: "place", evicted: [B] }],
    ["bytes too few", { freeBytes: 20 }, { kind: "place", evicted: [B, C] }],
    ["bytes too few, all of the unleased included", { freeBytes: 5 }, { kind: "evict", evicted: [B, C] }],
    ["nothing to take", { numFree: 0, unleased: () => [] }, { kind: "wait", claimedBytes: null }],
    ["too few bytes in all", { freeBytes: 20, unleased: () => [] }, { kind: "wait", claimedBytes: null }],
    ["no run of memory", { hasRoom: () => false }, { kind: "wait", claimedBytes: 50 }],
    ["no run of memory, and a slot too few", { numFree: 0, hasRoom: () => false }, { kind: "evict", evicted: [B] }],
    ["too much that is pinned", { pinnedBytes: 41 }, { kind: "refuse" }],
    ["pinned ones in the middle", { mayHaveRoom: () => false }, { kind: "refuse" }],
  ])("with %s", (_, changes, move) => {
    expect(nextMove([waiter()], room(changes))).toMatchObject(move);
  });

  test("nobody passes the first whose image is there", () => {
    const small = waiter({ adapterId: B, image: image("b", 1) });
    const tight = room({ freeBytes: 20, unleased: () => [] });
    expect(nextMove([waiter(), small], tight)).toMatchObject({ kind: "wait" });
    expect(nextMove([waiter({ image: null }), small], tight)).toMatchObject({ kind: "place", waiter: small });
    expect(nextMove([], tight)).toEqual({ kind: "wait", claimedBytes: null });
  });
});
