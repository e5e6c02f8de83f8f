/**
 * What a sequence takes over of what others have computed, and leaves to those after it: whole pages of the same tokens,
 * computed by the same model and adapter, for the same tenant.
 *
 * Whose rows a page has is part of its key, not of a tree of its own: so an adapter that acts from its invocation on
 * finds what the base model computed before it, and leaves that to others as the base model's.
 */
import type { PrefixNode } from "../kv/prefix-index.ts";
import type { ScheduleTable } from "./schedule-table.ts";
import { isScoring, type Sequence } from "./sequence.ts";

/** Pages to begin with, of which the sequence has computed nothing; the newest token is always left to compute. */
export function findPrefix(table: ScheduleTable, sequence: Sequence): readonly PrefixNode[] {
  const { prefixes, pool } = table;
  if (prefixes === null) return [];
  // A row that is scored has to be computed, whoever did so before.
  const numTokens = isScoring(sequence) ? sequence.scored : sequence.length - 1;
  const numPages = Math.floor(numTokens / pool.pageTokens);
  if (numPages === 0) return [];
  const found = prefixes.find(sequence.cacheScope, keysOf(table, sequence, numPages));
  // Those in the way of an adapter would never go, were newcomers to take them over.
  const end = found.findIndex(({ page }) => pool.isInTheWay(page));
  return end === -1 ? found : found.slice(0, end);
}

/** Starts a sequence with the pages found. */
export function takePrefix(table: ScheduleTable, sequence: Sequence, found: readonly PrefixNode[]): void {
  const { pool, counters, prefixes } = table;
  for (const { page } of found) pool.share(page, sequence.pages);
  sequence.computed = found.length * pool.pageTokens;
  sequence.scheduled = sequence.computed;
  sequence.indexed = { numPages: found.length, last: found.at(-1) ?? null };
  if (prefixes === null || sequence.numPreemptions > 0) return;
  sequence.numCached = sequence.computed;
  counters.prefixQueries += sequence.length;
  counters.prefixHits += sequence.computed;
}

/** Leaves every page that the sequence has filled by steps that are over. */
export function leavePrefix(table: ScheduleTable, sequence: Sequence): void {
  const { prefixes, pool } = table;
  if (prefixes === null) return;
  let { numPages, last } = sequence.indexed;
  const numFull = Math.floor(sequence.computed / pool.pageTokens);
  if (numPages === numFull || last?.isIndexed === false) return;
  for (; numPages < numFull; numPages++) {
    const page = sequence.pages[numPages]!;
    last = prefixes.insert(sequence.cacheScope, last, keyOf(table, sequence, numPages), page);
    if (last.page === page) pool.keep(page);
  }
  sequence.indexed = { numPages, last };
}

/** How far a sequence's pages are indexed, and the last of them. */
export interface Indexed {
  readonly numPages: number;
  readonly last: PrefixNode | null;
}

function* keysOf(table: ScheduleTable, sequence: Sequence, numPages: number): Iterable<string> {
  for (let page = 0; page < numPages; page++) yield keyOf(table, sequence, page);
}

/** All that the contents of one page follow from, given the pages before. Tokens stay, so a key is made once. */
function keyOf(table: ScheduleTable, sequence: Sequence, page: number): string {
  const known = sequence.pageKeys[page];
  if (known !== undefined) return known;
  const { pageTokens } = table.pool;
  const start = page * pageTokens;
  const { buffer, byteOffset, BYTES_PER_ELEMENT: width } = sequence.tokens;
  // Each byte as a character, which is a copy.
  const tokens = Buffer.from(buffer, byteOffset + start * width, pageTokens * width).toString("latin1");
  const key = `${computedBy(table, sequence, start, pageTokens)}|${tokens}`;
  sequence.pageKeys[page] = key;
  return key;
}

/** Nothing for the base model; else the adapter's content, and the row of the page from which on it acts. */
function computedBy(table: ScheduleTable, { adapter, activeFrom }: Sequence, start: number, pageTokens: number): string {
  if (adapter === null || activeFrom >= start + pageTokens) return "";
  return `${table.contentOf(adapter).digest}:${Math.max(0, activeFrom - start)}`;
}
