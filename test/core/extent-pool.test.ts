import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { FREE, IN_USE, leastUsedRun, oldestRun, PINNED } from "../../src/core/extent-runs.ts";

describe("runs", () => {
  const states = fc.array(fc.oneof(fc.constantFrom(FREE, IN_USE, PINNED), fc.integer({ min: 1, max: 9 })), { maxLength: 40 });

  /** Every run with its cost, the last of the cheapest. */
  const cheapest = (all: readonly number[], length: number, cost: (run: readonly number[]) => number): number | null => {
    const costs = Array.from({ length: Math.max(0, all.length - length + 1) }, (_, start) => cost(all.slice(start, start + length)));
    const least = Math.min(...costs);
    return Number.isFinite(least) ? costs.lastIndexOf(least) : null;
  };

  test("the oldest is the one whose newest content is oldest, without anything in use", () => {
    fc.assert(
      fc.property(states, fc.integer({ min: 1, max: 12 }), (all, length) => {
        const expected = cheapest(all, length, (run) => (Math.max(...run) >= IN_USE ? Infinity : Math.max(...run)));
        expect(oldestRun(Float64Array.from(all), length)).toBe(expected);
      }),
      { numRuns: 2000 },
    );
  });

  test("the least used is the one in which the fewest have to end, without anything pinned", () => {
    fc.assert(
      fc.property(states, fc.integer({ min: 1, max: 12 }), (all, length) => {
        const expected = cheapest(all, length, (run) => (run.includes(PINNED) ? Infinity : run.filter((state) => state === IN_USE).length));
        expect(leastUsedRun(Float64Array.from(all), length)).toBe(expected);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("ExtentPool", () => {
  test("gives pages the low end and runs the high end", () => {
    const pool = new ExtentPool(10);
    expect([pool.takeOne(), pool.takeRun(3), pool.takeOne(), pool.takeRun(2)]).toEqual([0, 7, 1, 5]);
    expect(pool.numAvailable).toBe(3);
    expect(pool.hasRun(3)).toBe(true);
    expect(pool.hasRun(4)).toBe(false);
    expect(pool.takeRun(4)).toBeNull();
    pool.free(5, 2);
    expect(pool.takeRun(4)).toBe(3);
  });

  test("keeps what is idle while anything is free, and gives up the longest idle, of whichever kind", () => {
    const pool = new ExtentPool(6);
    const gone: string[] = [];
    const rest = (name: string, start: number, length: number): void =>
      pool.setIdle(start, length, () => {
        gone.push(name);
        pool.free(start, length);
      });
    const run = pool.takeRun(2)!;
    const pages = [pool.takeOne()!, pool.takeOne()!, pool.takeOne()!];
    rest("page 0", pages[0]!, 1);
    rest("adapter", run, 2);
    rest("page 1", pages[1]!, 1);
    expect(pool.takeOne()).toBe(3);
    expect(gone).toEqual([]);
    expect([pool.takeOne(), pool.takeOne(), pool.takeOne()]).toEqual([0, 4, 5]);
    expect(gone).toEqual(["page 0", "adapter"]);
    pool.use(pages[1]!);
    expect(pool.takeOne()).toBeNull();
    expect(pool.numAvailable).toBe(0);
  });

  test("takes the place of what has been idle longest for a run, whole", () => {
    const pool = new ExtentPool(9);
    const gone: string[] = [];
    const runs = [pool.takeRun(3)!, pool.takeRun(3)!, pool.takeRun(3)!];
    for (const [name, which] of [["middle", 1], ["high", 0], ["low", 2]] as const) {
      pool.setIdle(runs[which]!, 3, () => {
        gone.push(name);
        pool.free(runs[which]!, 3);
      });
    }
    expect(pool.takeRun(4)).toBe(5);
    expect(gone.toSorted()).toEqual(["high", "middle"]);
    expect(pool.takeOne()).toBe(3);
  });

  test("keeps what comes free in a claim for the run, and says when all of it is", () => {
    const pool = new ExtentPool(4);
    let calls = 0;
    pool.onRunFree = () => calls++;
    for (let i = 0; i < 4; i++) pool.takeOne();
    pool.claimRun(2);
    expect([0, 1, 2, 3].map((extent) => pool.isClaimed(extent))).toEqual([false, false, true, true]);
    pool.free(3, 1);
    expect([pool.numAvailable, pool.takeOne(), calls]).toEqual([0, null, 0]);
    let isGone = false;
    pool.setIdle(2, 1, () => {
      isGone = true;
      pool.free(2, 1);
    });
    expect([isGone, calls]).toEqual([true, 1]);
    expect(pool.takeRun(2)).toBe(2);
    expect(pool.isClaimed(2)).toBe(false);
  });

  test("claims nothing that is pinned, and knows what never comes free", () => {
    const pool = new ExtentPool(5);
    const middle = [pool.takeOne(), pool.takeOne(), pool.takeOne()].at(-1)!;
    pool.setPinned(middle, 1, true);
    expect([pool.mayHaveRun(2), pool.mayHaveRun(3)]).toEqual([true, false]);
    pool.claimRun(3);
    expect([0, 1, 2, 3, 4].some((extent) => pool.isClaimed(extent))).toBe(false);
    pool.setPinned(middle, 1, false);
    expect(pool.mayHaveRun(5)).toBe(true);
  });

  test("what is freed twice is a bug, and said so", () => {
    const pool = new ExtentPool(2);
    pool.takeOne();
    pool.free(0, 1);
    expect(() => pool.free(0, 1)).toThrow("freed once");
  });
});
