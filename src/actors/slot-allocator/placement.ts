/** What can be done for the waiting adapter whose turn it is, and which ones make room for it. */
import type { AdapterImage } from "../../backend/backend.ts";
import type { AdapterId } from "../../core/ids.ts";

/** An adapter that wants a slot. */
export interface Waiter {
  readonly adapterId: AdapterId;
  readonly leaseNumber: number;
  /** `null` until it is delivered. */
  readonly image: AdapterImage | null;
  readonly isFetching: boolean;
  /** Whether `slot.blocked` was said since the last release. */
  readonly isToldBlocked: boolean;
}

/** The device as `SlotPool` tells of it. */
export interface Room {
  readonly numFree: number;
  readonly maxBytes: number;
  readonly freeBytes: number;
  readonly pinnedBytes: number;
  roundUp(numBytes: number): number;
  hasRoom(numBytes: number): boolean;
  mayHaveRoom(numBytes: number): boolean;
  /** The longest unused first. */
  unleased(): readonly { readonly adapterId: AdapterId; readonly numBytes: number }[];
}

export type Move =
  /** `evicted` go, and the waiter takes a place. */
  | { readonly kind: "place"; readonly waiter: Waiter; readonly image: AdapterImage; readonly evicted: readonly AdapterId[] }
  /** They go, which is not enough yet. */
  | { readonly kind: "evict"; readonly evicted: readonly AdapterId[] }
  /** What is pinned never leaves it a place. */
  | { readonly kind: "refuse"; readonly waiter: Waiter; readonly image: AdapterImage }
  /** Somebody has to end first; `claimedBytes` where only a run of memory is missing, else `null`. */
  | { readonly kind: "wait"; readonly claimedBytes: number | null };

const WAIT: Move = { kind: "wait", claimedBytes: null };

/**
 * What to do for the first waiter whose image is there.
 *
 * Nobody passes it: a small adapter that would fit waits as well, or a large one would wait for ever. While
 * slots or bytes are short every unleased adapter goes, even where that does not make enough room yet: others would lease it again.
 */
export function nextMove(waiters: readonly Waiter[], room: Room): Move {
  const waiter = waiters.find(({ image }) => image !== null);
  const image = waiter?.image;
  if (waiter === undefined || image === undefined || image === null) return WAIT;
  const needed = room.roundUp(image.numBytes);
  if (needed > room.maxBytes - room.pinnedBytes || !room.mayHaveRoom(needed)) return { kind: "refuse", waiter, image };
  let numFreeSlots = room.numFree;
  let { freeBytes } = room;
  const isShort = (): boolean => numFreeSlots === 0 || freeBytes < needed;
  const evicted: AdapterId[] = [];
  for (const { adapterId, numBytes } of room.unleased()) {
    if (!isShort()) break;
    evicted.push(adapterId);
    numFreeSlots++;
    freeBytes += numBytes;
  }
  if (!isShort() && room.hasRoom(needed)) return { kind: "place", waiter, image, evicted };
  if (evicted.length > 0) return { kind: "evict", evicted };
  return isShort() ? WAIT : { kind: "wait", claimedBytes: needed };
}
