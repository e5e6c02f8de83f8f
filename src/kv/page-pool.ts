/**
 * Which pages of the KV memory are free, and how many tables each of the others is in. Contents live on the device; this is
 * the ledger.
 *
 * A page that is kept stays as it is once no table has it, and is taken for something else only when no page is free: the one
 * that has been idle longest first.
 */
import { invariant } from "../core/errors.ts";
import { asPageId, type PageId } from "../core/ids.ts";
import { MAX_TABLES_PER_PAGE } from "../core/step-layout.ts";

export class PagePool {
  readonly numPages: number;
  /** Positions in one page. */
  readonly pageTokens: number;
  /** The first `#numUnused` entries hold nothing; the last freed is the first taken. */
  readonly #unused: Int32Array;
  /** Tables that a page is in. */
  readonly #numTables: Uint32Array;
  readonly #isKept: Uint8Array;
  /** Kept pages in no table, the longest idle first. */
  readonly #idle = new Set<PageId>();
  readonly #onReclaim: (page: PageId) => readonly PageId[];
  #numUnused: number;
  #numListed = 0;

  /**
   * @param numPages at least 0
   * @param pageTokens at least 1
   * @param onReclaim told when an idle page is taken for something else; returns all pages that are kept no longer, it among them
   */
  constructor(numPages: number, pageTokens: number, onReclaim: (page: PageId) => readonly PageId[] = (page) => [page]) {
    invariant(Number.isSafeInteger(numPages) && numPages >= 0, "numPages is a count");
    invariant(Number.isSafeInteger(pageTokens) && pageTokens >= 1, "a page has a position");
    this.numPages = numPages;
    this.pageTokens = pageTokens;
    this.#onReclaim = onReclaim;
    this.#unused = Int32Array.from({ length: numPages }, (_, index) => numPages - 1 - index);
    this.#numTables = new Uint32Array(numPages);
    this.#isKept = new Uint8Array(numPages);
    this.#numUnused = numPages;
  }

  /** Pages that may be allocated, idle ones among them. */
  get numFree(): number {
    return Math.min(this.#numUnused + this.#idle.size, this.numListable);
  }

  /** Pages in tables, each once. */
  get numHeld(): number {
    return this.numPages - this.#numUnused - this.#idle.size;
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

  /** Appends `count` pages to `table`, or none at all when fewer are free. */
  allocate(count: number, table: PageId[]): boolean {
    if (count > this.numFree) return false;
    for (let i = 0; i < count; i++) {
      if (this.#numUnused === 0) this.#reclaim();
      const page = asPageId(this.#unused[--this.#numUnused]!);
      this.#numTables[page] = 1;
      table.push(page);
    }
    this.#numListed += count;
    return true;
  }

  /** Appends a page that is held or idle to a further table; what it holds must not change from here on. */
  share(page: PageId, table: PageId[]): void {
    invariant(this.#numTables[page]! > 0 || this.#idle.has(page), `page ${page} holds something`);
    invariant(this.numListable > 0, "tables have room");
    this.#idle.delete(page);
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
      if (this.#isKept[page] === 1) this.#idle.add(page);
      else this.#unused[this.#numUnused++] = page;
    }
  }

  #reclaim(): void {
    for (const oldest of this.#idle) {
      for (const page of this.#onReclaim(oldest)) {
        this.#isKept[page] = 0;
        if (this.#idle.delete(page)) this.#unused[this.#numUnused++] = page;
      }
      return;
    }
  }
}
