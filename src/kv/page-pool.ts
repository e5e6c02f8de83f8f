/** Which pages of the KV memory are free. Contents live on the device; this is the ledger. */
import { invariant } from "../core/errors.ts";
import { asPageId, type PageId } from "../core/ids.ts";

export class PagePool {
  readonly numPages: number;
  /** Positions in one page. */
  readonly pageTokens: number;
  /** The first `#numFree` entries are free pages; the last freed is the first taken. */
  readonly #free: Int32Array;
  readonly #isHeld: Uint8Array;
  #numFree: number;

  /**
   * @param numPages at least 0
   * @param pageTokens at least 1
   */
  constructor(numPages: number, pageTokens: number) {
    invariant(Number.isSafeInteger(numPages) && numPages >= 0, "numPages is a count");
    invariant(Number.isSafeInteger(pageTokens) && pageTokens >= 1, "a page has a position");
    this.numPages = numPages;
    this.pageTokens = pageTokens;
    this.#free = Int32Array.from({ length: numPages }, (_, index) => numPages - 1 - index);
    this.#isHeld = new Uint8Array(numPages);
    this.#numFree = numPages;
  }

  get numFree(): number {
    return this.#numFree;
  }

  get numHeld(): number {
    return this.numPages - this.#numFree;
  }

  /** Appends `count` pages to `table`, or none at all when fewer are free. */
  allocate(count: number, table: PageId[]): boolean {
    if (count > this.#numFree) return false;
    for (let i = 0; i < count; i++) {
      const page = this.#free[--this.#numFree]!;
      this.#isHeld[page] = 1;
      table.push(asPageId(page));
    }
    return true;
  }

  /**
   * Takes all pages of `table` back and empties it.
   *
   * @throws {InvariantError} when a page is not held: it would be in two tables
   */
  release(table: PageId[]): void {
    for (let page = table.pop(); page !== undefined; page = table.pop()) {
      invariant(this.#isHeld[page] === 1, `page ${page} is freed once`);
      this.#isHeld[page] = 0;
      this.#free[this.#numFree++] = page;
    }
  }
}
