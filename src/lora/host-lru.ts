/** Staged adapters in host memory: bounded in bytes and number, the longest unused goes first, pinned ones stay. */
import type { AdapterId } from "../core/ids.ts";

interface Kept<T> {
  readonly value: T;
  readonly numBytes: number;
}

export class HostLru<T> {
  readonly maxBytes: number;
  readonly maxAdapters: number;
  /** In order of last use, the longest ago first. */
  readonly #kept = new Map<AdapterId, Kept<T>>();
  readonly #pinned = new Set<AdapterId>();
  #usedBytes = 0;

  /** @param maxAdapters most values at once; left out for as many as the bytes allow */
  constructor(maxBytes: number, maxAdapters = Infinity) {
    this.maxBytes = maxBytes;
    this.maxAdapters = maxAdapters;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get size(): number {
    return this.#kept.size;
  }

  has(adapterId: AdapterId): boolean {
    return this.#kept.has(adapterId);
  }

  /** The adapter's value, without using it. */
  peek(adapterId: AdapterId): T | undefined {
    return this.#kept.get(adapterId)?.value;
  }

  /** Every adapter kept, the longest unused first. */
  sizes(): { readonly adapterId: AdapterId; readonly numBytes: number }[] {
    return Array.from(this.#kept, ([adapterId, { numBytes }]) => ({ adapterId, numBytes }));
  }

  /** The adapter's value, which becomes the most recently used. */
  get(adapterId: AdapterId): T | undefined {
    const kept = this.#kept.get(adapterId);
    if (kept === undefined) return undefined;
    this.#kept.delete(adapterId);
    this.#kept.set(adapterId, kept);
    return kept.value;
  }

  /**
   * Keeps a value, dropping others until it fits.
   *
   * @returns the adapters dropped, in order; the adapter itself, and no other, when it is larger than what
   *   pinned ones leave
   */
  put(adapterId: AdapterId, value: T, numBytes: number): AdapterId[] {
    this.#drop(adapterId);
    if (numBytes > this.maxBytes - this.pinnedBytes || this.#numPinned >= this.maxAdapters) return [adapterId];
    const dropped: AdapterId[] = [];
    for (const oldest of this.#kept.keys()) {
      if (this.#usedBytes + numBytes <= this.maxBytes && this.size < this.maxAdapters) break;
      if (this.#pinned.has(oldest)) continue;
      this.#drop(oldest);
      dropped.push(oldest);
    }
    this.#kept.set(adapterId, { value, numBytes });
    this.#usedBytes += numBytes;
    return dropped;
  }

  /** Keeps the adapter's value, now or once it is put. */
  pin(adapterId: AdapterId): void {
    this.#pinned.add(adapterId);
  }

  /** Of the values kept for good. */
  get pinnedBytes(): number {
    let total = 0;
    for (const adapterId of this.#pinned) total += this.#kept.get(adapterId)?.numBytes ?? 0;
    return total;
  }

  get #numPinned(): number {
    let count = 0;
    for (const adapterId of this.#pinned) if (this.#kept.has(adapterId)) count++;
    return count;
  }

  /** Drops the adapter's value and its pin, if there are any. */
  forget(adapterId: AdapterId): void {
    this.#pinned.delete(adapterId);
    this.#drop(adapterId);
  }

  #drop(adapterId: AdapterId): void {
    this.#usedBytes -= this.#kept.get(adapterId)?.numBytes ?? 0;
    this.#kept.delete(adapterId);
  }
}
