import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { asPageId } from "../../src/core/ids.ts";
import { PrefixIndex, type PrefixNode } from "../../src/kv/prefix-index.ts";

/** Hangs keys one behind the other, on pages from `first` on. */
function insert(index: PrefixIndex, scope: string, keys: string, first: number): PrefixNode[] {
  let last: PrefixNode | null = null;
  return Array.from(keys, (key, i) => (last = index.insert(scope, last, key, asPageId(first + i))));
}
const pagesOf = (nodes: readonly PrefixNode[]): number[] => nodes.map(({ page }) => page);

describe("PrefixIndex", () => {
  test("finds the longest path, of its scope only", () => {
    const index = new PrefixIndex();
    insert(index, "a", "xyz", 0);
    insert(index, "b", "x", 10);
    expect(pagesOf(index.find("a", "xyq"))).toEqual([0, 1]);
    expect(pagesOf(index.find("a", "yz"))).toEqual([]);
    expect(pagesOf(index.find("b", "xyz"))).toEqual([10]);
    expect(pagesOf(index.find("c", "x"))).toEqual([]);
  });

  test("keeps the page that was first, and goes on behind it", () => {
    const index = new PrefixIndex();
    insert(index, "a", "xy", 0);
    expect(pagesOf(insert(index, "a", "xyw", 10))).toEqual([0, 1, 12]);
    expect(pagesOf(index.find("a", "xyw"))).toEqual([0, 1, 12]);
    expect(index.size).toBe(3);
  });

  test("forgets a page with all behind it, and nothing else", () => {
    const index = new PrefixIndex();
    const nodes = insert(index, "a", "xyz", 0);
    insert(index, "a", "xq", 10);
    expect(index.drop(asPageId(1)).map(Number)).toEqual([1, 2]);
    expect(nodes.map(({ isIndexed }) => isIndexed)).toEqual([true, false, false]);
    expect(pagesOf(index.find("a", "xyz"))).toEqual([0]);
    expect(pagesOf(index.find("a", "xq"))).toEqual([0, 11]);
    expect(index.drop(asPageId(7)).map(Number)).toEqual([7]);
    index.drop(asPageId(0));
    expect([index.size, pagesOf(index.find("a", "x"))]).toEqual([0, []]);
  });

  test("finds what a list of all contents would, for any order of insertions and drops", () => {
    const keys = fc.stringMatching(/^[xy]{0,5}$/);
    const operation = fc.oneof(fc.record({ insert: keys, scope: fc.constantFrom("a", "b") }), fc.record({ drop: fc.nat(60) }));
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 40 }), (operations) => {
        const index = new PrefixIndex();
        const contents = new Map<number, string>();
        let next = 0;
        for (const each of operations) {
          if ("drop" in each) {
            const content = contents.get(each.drop);
            const expected = content === undefined ? [each.drop] : [...contents].filter(([, other]) => other.startsWith(content)).map(([page]) => page);
            expect(new Set(index.drop(asPageId(each.drop)).map(Number))).toEqual(new Set(expected));
            for (const page of expected) contents.delete(page);
          } else {
            insert(index, each.scope, each.insert, next).forEach(({ page }, i) => {
              const content = `${each.scope}:${each.insert.slice(0, i + 1)}`;
              if (![...contents.values()].includes(content)) contents.set(next + i, content);
              expect(contents.get(page)).toBe(content);
            });
            next += each.insert.length;
          }
          for (const scope of ["a", "b"]) {
            for (const path of ["xyxyx", "xxxxx", "yyxyx"]) {
              const found = pagesOf(index.find(scope, path));
              expect(found.map((page) => contents.get(page)!)).toEqual(found.map((_, i) => `${scope}:${path.slice(0, i + 1)}`));
              if (found.length < path.length) expect([...contents.values()]).not.toContain(`${scope}:${path.slice(0, found.length + 1)}`);
            }
          }
          expect(index.size).toBe(contents.size);
        }
      }),
      { numRuns: 300 },
    );
  });
});
