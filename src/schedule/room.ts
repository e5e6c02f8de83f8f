/** What a sequence needs to start, and how much of it is spoken for. */
import { pagesFor, pagesMissing } from "../kv/page-table.ts";
import type { ScheduleTable } from "./schedule-table.ts";
import { isDecoding, type Sequence } from "./sequence.ts";

/** Every running sequence may need a row in each step. */
export const maxRunning = ({ limits }: ScheduleTable): number =>
  Math.min(limits.maxSequences, limits.maxRows);

/** Pages for all that is to be computed and the token after it. */
export const pagesToStart = ({ pool }: ScheduleTable, sequence: Sequence): number =>
  pagesFor(sequence.length + 1, pool.pageTokens);

/** Pages that running prompts are still to take: a newcomer must not take them first. */
export function promisedPages({ running, pool }: ScheduleTable): number {
  let promised = 0;
  for (const sequence of running) {
    if (isDecoding(sequence)) continue;
    promised += pagesMissing(sequence.pages, sequence.length + 1, pool.pageTokens);
  }
  return promised;
}
