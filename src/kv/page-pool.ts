/**
 * Which extents of the device's memory are KV pages, and how many tables each of them is in. Contents live on the device; this is
 * the ledger.
 *
 * A page that is kept stays as it is once no table has it, until others need its extent.
 */
import { invariant } from "../core/errors.ts";
import type { ExtentPool } from "../core/extent-pool.ts";
import { asPageId, type PageId } from "../core/ids.ts";
import { MAX_TABLES_PER_PAGE } from "../core/step-layout.ts";

export class PagePool {
  /** Most pages at once. */
  readonly numPages: number;
  /** Positions in one page. */
  readonly pageTokens: number;
  readonly #extents: ExtentPool;
  /** Tables that a page is in. */
  readonly #numTables: Uint32Array;
  readonly #isKept: Uint8Array;
  /** Kept pages in no table, the longest idle first. */
  readonly #idle = new Set<PageId>();
  readonly #onReclaim: (page: PageId) => readonly PageId[];
  #numHeld = 0;
  #numListed = 0;

  /**
   * @param numPages most pages at once, at least 0
   * @param pageTokens at least 1
   * @param onReclaim told when an idle page is taken for something else; returns all pages that are kept no longer, it among them
   */
  constructor(extents: ExtentPool, pageTokens: number, numPages = extents.numExtents, onReclaim: (page: PageId) => readonly PageId[] = (page) => [page]) {
    invariant(Number.isSafeInteger(numPages) && numPages >= 0, "numPages is a count");
    invariant(Number.isSafeInteger(pageTokens) && pageTokens >= 1, "a page has a position");
    this.numPages = numPages;
    this.pageTokens = pageTokens;
    this.#extents = extents;
    this.#onReclaim = onReclaim;
    this.#numTables = new Uint32Array(extents.numExtents);
    this.#isKept = new Uint8Array(extents.numExtents);
  }

  /** Pages that may be allocated: what is idle, be it a page or an adapter, makes room. */
  get numFree(): number {
    return Math.min(this.numPages - this.#numHeld, this.#extents.numAvailable, this.numListable);
  }

  /** Pages in tables, each once. */
  get numHeld(): number {
    return this.#numHeld;
  }

  /** Kept pages in no table. */
  get numIdle(): number {
    return this.#idle.size;
  }

  /** Which they are, the longest idle first. */
  idlePages(): readonly PageId[] {
    return [...this.#idle];
  }

  /** Entries that all tables together may still get: devices have room for so many. */
  get numListable(): number {
    return MAX_TABLES_PER_PAGE * this.numPages - this.#numListed;
  }

  isHeld(page: PageId): boolean {
    return this.#numTables[page]! > 0;
  }

  /** Whether an adapter waits for the place of a page, which is in the way of it. */
  isInTheWay(page: PageId): boolean {
    return this.#extents.isClaimed(page);
  }

  /** Appends `count` pages to `table`, or none at all when fewer are free. */
  allocate(count: number, table: PageId[]): boolean {
    if (count > this.numFree) return false;
    for (let i = 0; i < count; i++) {
      if (this.#numHeld + this.#idle.size === this.numPages) this.#reclaimOldest();
      const extent = this.#extents.takeOne();
      invariant(extent !== null, "an available extent can be had");
      this.#numTables[extent] = 1;
      this.#numHeld++;
      table.push(asPageId(extent));
    }
    this.#numListed += count;
    return true;
  }

  /** Appends a page that is held or idle to a further table; what it holds must not change from here on. */
  share(page: PageId, table: PageId[]): void {
    invariant(this.#numTables[page]! > 0 || this.#idle.has(page), `page ${page} holds something`);
    invariant(this.numListable > 0, "tables have room");
    if (this.#idle.delete(page)) {
      this.#extents.use(page);
      this.#numHeld++;
    }
    this.#numTables[page]!++;
    this.#numListed++;
    table.push(page);
  }

  /** Keeps what a held page has come to hold. */
  keep(page: PageId): void {
    invariant(this.#numTables[page]! > 0, `page ${page} is held`);
    this.#isKept[page] = 1;
  }

  /**
   * Takes all pages of `table` back and empties it, the last page first, so that the beginning of what they hold is kept longest.
   *
   * @throws {InvariantError} when a page is not held: it would be freed twice
   */
  release(table: PageId[]): void {
    for (let page = table.pop(); page !== undefined; page = table.pop()) {
      invariant(this.#numTables[page]! > 0, `page ${page} is freed once`);
      this.#numListed--;
      if (--this.#numTables[page]! > 0) continue;
      this.#numHeld--;
      if (this.#isKept[page] === 1) this.#rest(page);
      else this.#extents.free(page, 1);
    }
  }

  #rest(page: PageId): void {
    this.#idle.add(page);
    this.#extents.setIdle(page, 1, () => this.#reclaim(page));
  }

  #reclaim(oldest: PageId): void {
    for (const page of this.#onReclaim(oldest)) {
      this.#isKept[page] = 0;
      if (this.#idle.delete(page)) this.#extents.free(page, 1);
    }
  }

  #reclaimOldest(): void {
    const [oldest] = this.#idle;
    if (oldest !== undefined) this.#reclaim(oldest);
  }
}
