/** Staged adapters in host memory: bounded in bytes, the longest unused goes first. */
import type { AdapterId } from "../core/ids.ts";

interface Kept<T> {
  readonly value: T;
  readonly numBytes: number;
}

export class HostLru<T> {
  readonly maxBytes: number;
  /** In order of last use, the longest ago first. */
  readonly #kept = new Map<AdapterId, Kept<T>>();
  #usedBytes = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
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
   * @returns the adapters dropped, in order; the adapter itself, and no other, when it is larger than the cache
   */
  put(adapterId: AdapterId, value: T, numBytes: number): AdapterId[] {
    this.#drop(adapterId);
    if (numBytes > this.maxBytes) return [adapterId];
    const dropped: AdapterId[] = [];
    for (const oldest of this.#kept.keys()) {
      if (this.#usedBytes + numBytes <= this.maxBytes) break;
      this.#drop(oldest);
      dropped.push(oldest);
    }
    this.#kept.set(adapterId, { value, numBytes });
    this.#usedBytes += numBytes;
    return dropped;
  }

  #drop(adapterId: AdapterId): void {
    this.#usedBytes -= this.#kept.get(adapterId)?.numBytes ?? 0;
    this.#kept.delete(adapterId);
  }
}
