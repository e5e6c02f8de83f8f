/** A sequence's pages in order: page `i` holds positions `i * pageTokens` up to the next. */
import type { PageId } from "../core/ids.ts";
import type { PagePool } from "./page-pool.ts";

/** Pages that hold `numPositions` positions. */
export const pagesFor = (numPositions: number, pageTokens: number): number =>
  Math.ceil(numPositions / pageTokens);

/** Pages that `table` lacks to hold `numPositions` positions; never negative. */
export const pagesMissing = (
  table: readonly PageId[],
  numPositions: number,
  pageTokens: number,
): number => Math.max(0, pagesFor(numPositions, pageTokens) - table.length);

/** Makes room for `numPositions` positions, or changes nothing when the pool lacks pages. */
export function growTable(pool: PagePool, table: PageId[], numPositions: number): boolean {
  const numMissing = pagesMissing(table, numPositions, pool.pageTokens);
  return numMissing === 0 || pool.allocate(numMissing, table);
}
