import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asAdapterId, type AdapterId } from "../../src/core/ids.ts";
import { SlotPool } from "../../src/lora/slot-pool.ts";

const A = asAdapterId(1);
const B = asAdapterId(2);

const poolWith = (numSlots: number, maxBytes: number, extents = new ExtentPool(maxBytes)): SlotPool =>
  new SlotPool({ numSlots, maxBytes, extents, extentBytes: 1 });

describe("SlotPool", () => {
  test("seats adapters in the lowest free slot, leased", () => {
    const pool = poolWith(2, 100);
    expect(pool.seat(A, 30).slot as number).toBe(0);
    expect(pool.seat(B, 40).slot as number).toBe(1);
    expect([pool.numUsed, pool.numFree, pool.usedBytes, pool.freeBytes]).toEqual([2, 0, 70, 30]);
    expect(pool.unleased()).toEqual([]);
    expect(() => pool.seat(asAdapterId(3), 1)).toThrow("a slot is free");
    expect(() => pool.seat(A, 1)).toThrow("one slot at most");
  });

  test("offers unleased adapters in the order of their last use", () => {
    const pool = poolWith(2, 100);
    pool.seat(A, 1);
    pool.seat(B, 1);
    pool.release(A);
    pool.release(B);
    pool.lease(A);
    pool.release(A);
    expect(pool.unleased().map(({ adapterId }) => adapterId)).toEqual([B, A]);
  });

  test("never lets a leased adapter go", () => {
    const pool = poolWith(1, 100);
    pool.seat(A, 1);
    expect(() => pool.evict(A)).toThrow("unleased");
    expect(() => pool.evict(B)).toThrow("unleased");
    expect(() => pool.lease(B)).toThrow("seated");
  });

  test("agrees with a plain list for any order of operations", () => {
    const operation = fc.tuple(fc.constantFrom("use", "release", "evict"), fc.nat(5));
    fc.assert(
      fc.property(fc.nat(4), fc.array(operation, { maxLength: 60 }), (numSlots, operations) => {
        const pool = poolWith(numSlots, 1000);
        let model: { adapter: AdapterId; slot: number; isLeased: boolean }[] = [];
        for (const [kind, which] of operations) {
          const adapter = asAdapterId(which);
          const known = model.find((each) => each.adapter === adapter);
          const others = model.filter((each) => each !== known);
          if (kind === "use" && known !== undefined) {
            pool.lease(adapter);
            model = [...others, { ...known, isLeased: true }];
          } else if (kind === "use" && model.length < numSlots) {
            const { slot } = pool.seat(adapter, 10);
            expect(model.some((each) => each.slot === slot)).toBe(false);
            model = [...others, { adapter, slot, isLeased: true }];
          } else if (kind === "release" && known !== undefined) {
            pool.release(adapter);
            model = [...others, { ...known, isLeased: false }];
          } else if (kind === "evict" && known?.isLeased === false) {
            expect(pool.evict(adapter) as number).toBe(known.slot);
            model = others;
          }
          expect(pool.unleased().map(({ adapterId }) => adapterId)).toEqual(
            model.filter(({ isLeased }) => !isLeased).map((each) => each.adapter),
          );
          expect(pool.numUsed + pool.numFree).toBe(numSlots);
          expect(pool.usedBytes).toBe(model.length * 10);
          for (const each of model) expect(pool.slotOf(each.adapter) as number).toBe(each.slot);
        }
      }),
    );
  });
});
