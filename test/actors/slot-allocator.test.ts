import { describe, expect, test } from "bun:test";
import { createActor, fromPromise } from "xstate";
import { nextPlacement, type Waiter } from "../../src/actors/slot-allocator/placement.ts";
import type { SlotAllocatorFact } from "../../src/actors/slot-allocator/slot-allocator.events.ts";
import { slotAllocatorMachine } from "../../src/actors/slot-allocator/slot-allocator.machine.ts";
import type { UploadAdapterInput } from "../../src/actors/slot-allocator/upload-adapter.ts";
import { AdapterError, NativeError } from "../../src/core/errors.ts";
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
function open(numSlots: number, maxImages = 4, maxBytes = 100) {
  const uploads: Pending[] = [];
  const facts: string[] = [];
  const pool = new SlotPool(numSlots, maxBytes);
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
        detach: () => {},
        deviceBytes: ({ numBytes }) => numBytes,
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
    pool,
    uploads,
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
    expect(slots.uploads[0]?.upload).toMatchObject({ adapterId: A, slot: 0, evicted: [] });
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
    expect(slots.uploads[0]?.upload).toMatchObject({ slot: 1, evicted: [1] });
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

  test("waits when the device has no run of memory, and refuses what does not fit alone", async () => {
    const tooLarge = new AdapterError("adapter_too_large", "no run of free memory");
    const slots = open(3);
    slots.lease(A);
    slots.deliver(A);
    await slots.finish();
    slots.lease(B);
    slots.deliver(B);
    slots.heard();
    await slots.finish(tooLarge);
    expect(slots.heard()).toEqual(["slot.blocked 2"]);
    slots.release(A);
    expect(slots.heard()).toEqual(["slot.evicted 1@0"]);
    await slots.finish(tooLarge);
    expect(slots.heard()).toEqual(["slot.refused 2 adapter_too_large"]);
    expect(slots.pool.numUsed).toBe(0);
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

describe("placement", () => {
  const waiter = (changes: Partial<Waiter>): Waiter => ({
    adapterId: A,
    leaseNumber: 1,
    image: image("a", 50),
    isFetching: false,
    lacksMemory: false,
    isToldBlocked: false,
    ...changes,
  });
  const bytes = ({ numBytes }: { readonly numBytes: number }) => numBytes;
  const unleased = [
    { adapterId: B, numBytes: 20 },
    { adapterId: C, numBytes: 20 },
  ];

  test.each([
    ["room as it is", { numAttached: 2, numPinned: 0, numFreeSlots: 1, freeBytes: 50, unleased }, []],
    ["a slot too few", { numAttached: 2, numPinned: 0, numFreeSlots: 0, freeBytes: 50, unleased }, [B]],
    ["bytes too few", { numAttached: 2, numPinned: 0, numFreeSlots: 2, freeBytes: 20, unleased }, [B, C]],
    ["the device to itself", { numAttached: 0, numPinned: 0, numFreeSlots: 1, freeBytes: 20, unleased: [] }, []],
    ["nothing to take", { numAttached: 2, numPinned: 0, numFreeSlots: 0, freeBytes: 90, unleased: [] }, null],
    [
      "too few bytes in all",
      { numAttached: 2, numPinned: 0, numFreeSlots: 1, freeBytes: 20, unleased: [] },
      null,
    ],
  ])("with %s", (_, room, evicted) => {
    expect(nextPlacement([waiter({})], room, bytes)?.evicted ?? null).toEqual(evicted);
  });

  test("nobody passes the first whose image is there", () => {
    const small = waiter({ adapterId: B, image: image("b", 1) });
    const room = { numAttached: 1, numPinned: 0, numFreeSlots: 1, freeBytes: 20, unleased: [] };
    expect(nextPlacement([waiter({}), small], room, bytes)).toBeNull();
    expect(nextPlacement([waiter({ image: null }), small], room, bytes)?.waiter).toBe(small);
  });
});
