import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asPageId, type PageId } from "../../src/core/ids.ts";
import { MAX_TABLES_PER_PAGE } from "../../src/core/step-layout.ts";
import { PagePool } from "../../src/kv/page-pool.ts";
import { growTable, pagesFor, pagesMissing } from "../../src/kv/page-table.ts";

describe("PagePool", () => {
  test("allocates all or nothing", () => {
    const pool = new PagePool(new ExtentPool(3), 16);
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
    const pool = new PagePool(new ExtentPool(2), 16);
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
        const pool = new PagePool(new ExtentPool(numPages), 4);
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

describe("shared and kept pages", () => {
  test("a page is free once the last table has given it back", () => {
    const pool = new PagePool(new ExtentPool(2), 16);
    const [one, other]: PageId[][] = [[], []];
    pool.allocate(1, one!);
    pool.share(one![0]!, other!);
    pool.release(one!);
    expect([pool.numFree, pool.numHeld]).toEqual([1, 1]);
    pool.release(other!);
    expect([pool.numFree, pool.numHeld, pool.numIdle]).toEqual([2, 0, 0]);
  });

  test("a kept page stays while others are free, and the longest idle goes first, the end of a table before its beginning", () => {
    const reclaimed: number[] = [];
    const pool = new PagePool(new ExtentPool(4), 16, 4, (page) => {
      reclaimed.push(page);
      return [page];
    });
    const [one, other, more]: PageId[][] = [[], [], []];
    pool.allocate(2, one!);
    pool.allocate(1, other!);
    for (const page of [...one!, ...other!]) pool.keep(page);
    const kept = [...one!];
    const [last] = other!;
    pool.release(one!);
    pool.release(other!);
    expect([pool.numFree, pool.numIdle, pool.numHeld]).toEqual([4, 3, 0]);
    pool.allocate(3, more!);
    expect(reclaimed).toEqual([kept[1]!, kept[0]!]);
    pool.share(last!, more!);
    expect([pool.numFree, pool.numIdle, pool.numHeld]).toEqual([0, 0, 4]);
  });

  test("what is dropped with a reclaimed page is free, or so once it is given back", () => {
    const pool = new PagePool(new ExtentPool(3), 16, 3, () => [0, 1, 2].map(asPageId));
    const [one, other]: PageId[][] = [[], []];
    pool.allocate(2, one!);
    pool.allocate(1, other!);
    for (const page of [...one!, ...other!]) pool.keep(page);
    pool.release(one!);
    pool.allocate(1, one!);
    expect([pool.numFree, pool.numIdle]).toEqual([1, 0]);
    pool.release(other!);
    expect([pool.numFree, pool.numIdle]).toEqual([2, 0]);
  });

  test("tables together have no more entries than a device has room for", () => {
    const pool = new PagePool(new ExtentPool(2), 16);
    const table: PageId[] = [];
    pool.allocate(1, table);
    for (let i = 1; i < 2 * MAX_TABLES_PER_PAGE; i++) pool.share(table[0]!, table);
    expect([pool.numListable, pool.numFree, pool.allocate(1, [])]).toEqual([0, 0, false]);
    expect(() => pool.share(table[0]!, [])).toThrow("tables have room");
  });

  test("every page is unused, idle or held by as many tables as it is in, for any order of operations", () => {
    const operation = fc.record({ kind: fc.constantFrom("grow", "release", "share", "keep"), which: fc.nat(3), from: fc.nat(3), count: fc.nat(6) });
    fc.assert(
      fc.property(fc.nat(12), fc.array(operation, { maxLength: 80 }), (numPages, operations) => {
        const kept = new Set<PageId>();
        const pool = new PagePool(new ExtentPool(numPages), 4, numPages, (page) => {
          kept.delete(page);
          return [page];
        });
        const tables: PageId[][] = [[], [], [], []];
        for (const { kind, which, from, count } of operations) {
          const table = tables[which]!;
          const fits = count <= pool.numFree;
          if (kind === "grow") expect(pool.allocate(count, table)).toBe(fits);
          if (kind === "release") pool.release(table);
          if (kind === "share" && which !== from) for (const page of tables[from]!) if (pool.numListable > 0 && !table.includes(page)) pool.share(page, table);
          if (kind === "keep") {
            for (const page of table) pool.keep(page);
            for (const page of table) kept.add(page);
          }
          const held = new Set(tables.flat());
          for (const each of tables) expect(new Set(each).size).toBe(each.length);
          expect(pool.numHeld).toBe(held.size);
          expect(pool.numListable).toBe(MAX_TABLES_PER_PAGE * numPages - tables.flat().length);
          for (let page = 0; page < numPages; page++) expect(pool.isHeld(asPageId(page))).toBe(held.has(asPageId(page)));
          expect(pool.numIdle).toBe([...kept].filter((page) => !held.has(page)).length);
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
