/**
 * The device's memory for KV pages and adapters: equal extents of one page each, and who may have which. Contents live on the device; this is
 * the ledger.
 *
 * A page takes one extent, the lowest that is free; an adapter takes neighbours, as high as there are. What is out of use (a page that
 * holds the beginning of sequences to come, an adapter that nobody asks for now) is **idle**: it stays until others need its place, the longest
 * idle first, of whichever kind it is.
 *
 * Where something in use lies in every run of neighbours that is long enough, the best of them is **claimed**: what comes free in
 * there waits for the rest of it.
 */
import { invariant } from "./errors.ts";
import { FREE, IN_USE, leastUsedRun, oldestRun, PINNED } from "./extent-runs.ts";

interface Idle {
  readonly length: number;
  /** Lets go of what is there; frees these extents, and perhaps others. */
  readonly giveUp: () => void;
}

interface Run {
  readonly start: number;
  readonly end: number;
}

export class ExtentPool {
  readonly numExtents: number;
  /** Called when all of the claim has come free. */
  onRunFree: () => void = () => {};
  /** Of each extent: free, the tick since which it is idle, in use, or pinned. */
  readonly #states: Float64Array;
  /** By first extent, the longest idle first. */
  readonly #idle = new Map<number, Idle>();
  #claim: Run = { start: 0, end: 0 };
  #tick = 1;
  /** Outside the claim. */
  #numFree: number;
  #numIdle = 0;
  /** No extent below is free. */
  #lowest = 0;

  /** @param numExtents at least 0 */
  constructor(numExtents: number) {
    invariant(Number.isSafeInteger(numExtents) && numExtents >= 0, "numExtents is a count");
    this.numExtents = numExtents;
    this.#states = new Float64Array(numExtents);
    this.#numFree = numExtents;
  }

  /** Extents that can be had one by one: free and not claimed, or idle. */
  get numAvailable(): number {
    return this.#numFree + this.#numIdle;
  }

  /** @returns an extent for a page; `null` when nothing is free or idle */
  takeOne(): number | null {
    while (this.#numFree === 0) {
      const [oldest] = this.#idle.values();
      if (oldest === undefined) return null;
      oldest.giveUp();
    }
    let extent = this.#states.indexOf(FREE, this.#lowest);
    if (this.isClaimed(extent)) extent = this.#states.indexOf(FREE, this.#claim.end);
    else this.#lowest = extent + 1;
    this.#states[extent] = IN_USE;
    this.#numFree--;
    return extent;
  }

  /** Whether `takeRun` would find `length` neighbours now. */
  hasRun(length: number): boolean {
    return oldestRun(this.#states, length) !== null;
  }

  /**
   * Takes the neighbours whose last use is longest ago; of several, the highest. Gives up whatever is idle in there, and the claim.
   *
   * @param length at least 1
   * @returns the first of them; `null` when there are none
   */
  takeRun(length: number): number | null {
    const start = oldestRun(this.#states, length);
    if (start === null) return null;
    this.dropClaim();
    this.#giveUpWithin({ start, end: start + length });
    this.#states.fill(IN_USE, start, start + length);
    this.#numFree -= length;
    return start;
  }

  /** Whether `takeRun` may ever find `length` neighbours: what is pinned leaves so many. */
  mayHaveRun(length: number): boolean {
    return leastUsedRun(this.#states, length) !== null;
  }

  /**
   * Keeps the run that needs the fewest others to end for whoever takes a run next.
   *
   * @param length at least 1; nothing is claimed when what is pinned leaves no such run
   */
  claimRun(length: number): void {
    if (this.#claim.end - this.#claim.start === length && !this.#states.subarray(this.#claim.start, this.#claim.end).includes(PINNED)) return;
    this.dropClaim();
    const start = leastUsedRun(this.#states, length);
    if (start === null) return;
    const claim = { start, end: start + length };
    this.#giveUpWithin(claim);
    this.#claim = claim;
    this.#numFree -= this.#countFree(claim);
  }

  dropClaim(): void {
    const { start, end } = this.#claim;
    if (end === 0) return;
    this.#numFree += this.#countFree(this.#claim);
    this.#claim = { start: 0, end: 0 };
    this.#lowest = Math.min(this.#lowest, start);
  }

  /** Whether an extent is kept for a run, so that whoever has it is in the way. */
  isClaimed(extent: number): boolean {
    return extent >= this.#claim.start && extent < this.#claim.end;
  }

  /** Frees extents that are in use, pinned or idle. */
  free(start: number, length: number): void {
    this.use(start);
    for (let extent = start; extent < start + length; extent++) {
      invariant(this.#states[extent]! >= IN_USE, `extent ${extent} is freed once`);
      this.#states[extent] = FREE;
      if (!this.isClaimed(extent)) this.#numFree++;
    }
    this.#lowest = Math.min(this.#lowest, start);
    if (start < this.#claim.end && start + length > this.#claim.start && this.#countFree(this.#claim) === this.#claim.end - this.#claim.start) this.onRunFree();
  }

  /** Nobody uses a run any more that one of them took; its content stays as long as it may. */
  setIdle(start: number, length: number, giveUp: () => void): void {
    if (start < this.#claim.end && start + length > this.#claim.start) return giveUp();
    invariant(!this.#idle.has(start), `extent ${start} is in use`);
    this.#idle.set(start, { length, giveUp });
    this.#states.fill(this.#tick++, start, start + length);
    this.#numIdle += length;
  }

  /** Somebody uses an idle run again; one that is in use stays so. */
  use(start: number): void {
    const idle = this.#idle.get(start);
    if (idle === undefined) return;
    this.#idle.delete(start);
    this.#states.fill(IN_USE, start, start + idle.length);
    this.#numIdle -= idle.length;
  }

  /** Tells of a run in use whether it will ever end. */
  setPinned(start: number, length: number, isPinned: boolean): void {
    invariant(!this.#idle.has(start), `extent ${start} is in use`);
    this.#states.fill(isPinned ? PINNED : IN_USE, start, start + length);
  }

  #countFree({ start, end }: Run): number {
    let count = 0;
    for (let extent = start; extent < end; extent++) if (this.#states[extent] === FREE) count++;
    return count;
  }

  #giveUpWithin({ start, end }: Run): void {
    for (const [first, { length, giveUp }] of this.#idle) if (first < end && first + length > start) giveUp();
  }
}
