/** Which waiting adapter goes to the device next, and which ones make room for it. */
import type { AdapterImage } from "../../backend/backend.ts";
import type { AdapterId } from "../../core/ids.ts";

/** An adapter that wants a slot. */
export interface Waiter {
  readonly adapterId: AdapterId;
  readonly leaseNumber: number;
  /** `null` until it is delivered. */
  readonly image: AdapterImage | null;
  readonly isFetching: boolean;
  /** The device had no run of memory for it: something has to go first, whatever the sums say. */
  readonly lacksMemory: boolean;
  /** Whether `slot.blocked` was said since the last release. */
  readonly isToldBlocked: boolean;
}

export interface Placement {
  readonly waiter: Waiter;
  readonly image: AdapterImage;
  /** Unleased adapters, least recently used first. */
  readonly evicted: readonly AdapterId[];
}

export interface Room {
  readonly numAttached: number;
  /** Of those, they stay whoever waits. */
  readonly numPinned: number;
  readonly numFreeSlots: number;
  readonly freeBytes: number;
  /** Unleased adapters, least recently used first, with their bytes on the device. */
  readonly unleased: readonly { readonly adapterId: AdapterId; readonly numBytes: number }[];
}

/**
 * The first waiter whose image is there, if something can be done for it.
 *
 * Nobody passes it: a small adapter that would fit waits as well, or a large one would wait for ever. While
 * it is short of room every unleased adapter goes, even where that does not make enough room yet.
 */
export function nextPlacement(
  waiters: readonly Waiter[],
  room: Room,
  deviceBytes: (image: AdapterImage) => number,
): Placement | null {
  for (const waiter of waiters) {
    const { image, lacksMemory } = waiter;
    if (image === null) continue;
    const needed = deviceBytes(image);
    let { numFreeSlots, freeBytes } = room;
    const evicted: AdapterId[] = [];
    for (const { adapterId, numBytes } of room.unleased) {
      const isShort = numFreeSlots === 0 || freeBytes < needed;
      if (!isShort && !(lacksMemory && evicted.length === 0)) break;
      evicted.push(adapterId);
      numFreeSlots++;
      freeBytes += numBytes;
    }
    if (numFreeSlots === 0) return null;
    // Alone beside those that stay it is tried in any case: only the device can say that it never fits.
    const isAlone = room.numAttached - room.numPinned === evicted.length;
    if (evicted.length === 0 && !isAlone && (lacksMemory || freeBytes < needed)) return null;
    return { waiter, image, evicted };
  }
  return null;
}
