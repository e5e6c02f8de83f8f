import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { PageId } from "../../src/core/ids.ts";
import { PagePool } from "../../src/kv/page-pool.ts";
import { growTable, pagesFor, pagesMissing } from "../../src/kv/page-table.ts";

describe("PagePool", () => {
  test("allocates all or nothing", () => {
    const pool = new PagePool(3, 16);
    const table: PageId[] = [];
    expect(pool.allocate(4, table)).toBe(false);
    expect(table).toEqual([]);
    expect(pool.numFree).toBe(3);
    expect(pool.allocate(3, table)).toBe(true);
    expect(new Set<number>(table)).toEqual(new Set([0, 1, 2]));
    expect(pool.numHeld).toBe(3);
    expect(pool.allocate(0, table)).toBe(true);
  });

  test("a page that is freed twice is a bug, and said so", () => {
    const pool = new PagePool(2, 16);
    const table: PageId[] = [];
    pool.allocate(1, table);
    const copy = [...table];
    pool.release(table);
    expect(table).toEqual([]);
    expect(() => pool.release(copy)).toThrow("freed once");
  });

  test("no page is ever in two tables, and none is lost, for any order of growth and release", () => {
    const operation = fc.tuple(fc.nat(3), fc.nat(40), fc.boolean());
    fc.assert(
      fc.property(fc.nat(20), fc.array(operation, { maxLength: 80 }), (numPages, operations) => {
        const pool = new PagePool(numPages, 4);
        const tables: PageId[][] = [[], [], [], []];
        for (const [which, positions, isRelease] of operations) {
          const table = tables[which]!;
          if (isRelease) pool.release(table);
          else {
            const before = [...table];
            const missing = pagesMissing(table, positions, 4);
            const fits = missing <= pool.numFree;
            expect(growTable(pool, table, positions)).toBe(fits);
            expect(table.slice(0, before.length)).toEqual(before);
            expect(table.length).toBe(before.length + (fits ? missing : 0));
          }
          const held = tables.flat();
          expect(new Set(held).size).toBe(held.length);
          expect(held.length).toBe(pool.numHeld);
          expect(pool.numFree + pool.numHeld).toBe(numPages);
        }
      }),
      { numRuns: 300 },
    );
  });
});

test.each([
  [0, 0],
  [1, 1],
  [4, 1],
  [5, 2],
])("%p positions need %p pages of 4", (positions, pages) => {
  expect(pagesFor(positions, 4)).toBe(pages);
});
