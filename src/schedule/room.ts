/** What a sequence needs to start, and how much of it is spoken for. */
import { pagesFor, pagesMissing } from "../kv/page-table.ts";
import type { PrefixNode } from "../kv/prefix-index.ts";
import type { ScheduleTable } from "./schedule-table.ts";
import { isDecoding, type Sequence } from "./sequence.ts";

/** Every running sequence may need a row in each step. */
export const maxRunning = ({ limits }: ScheduleTable): number =>
  Math.min(limits.maxSequences, limits.maxRows);

/**
 * Whether a waiting sequence fits: pages for all that is to be computed and the token after it, beside what is promised.
 *
 * @param prefix pages that it would begin with; only those that somebody holds already cost nothing
 */
export function hasPages({ pool }: ScheduleTable, sequence: Sequence, prefix: readonly PrefixNode[], promised: number): boolean {
  const numPages = pagesFor(sequence.length + 1, pool.pageTokens);
  const numHeld = prefix.reduce((count, { page }) => count + (pool.isHeld(page) ? 1 : 0), 0);
  return pool.numFree - promised >= numPages - numHeld && pool.numListable - promised >= numPages;
}

/** Pages that running prompts are still to take: a newcomer must not take them first. */
export function promisedPages({ running, pool }: ScheduleTable): number {
  let promised = 0;
  for (const sequence of running) {
    if (sequence.phase !== "running" || isDecoding(sequence)) continue;
    promised += pagesMissing(sequence.pages, sequence.length + 1, pool.pageTokens);
  }
  return promised;
}
