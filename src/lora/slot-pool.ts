/** Which adapter sits in which slot of the device, and which of them may be taken away. */
import { invariant } from "../core/errors.ts";
import { asSlotId, type AdapterId, type SlotId } from "../core/ids.ts";

interface Seat {
  readonly slot: SlotId;
  readonly numBytes: number;
  isLeased: boolean;
}

/** An adapter on the device that nobody uses now. */
export interface Unleased {
  readonly adapterId: AdapterId;
  readonly slot: SlotId;
  readonly numBytes: number;
}

export class SlotPool {
  readonly numSlots: number;
  /** Device bytes for all adapters. */
  readonly maxBytes: number;
  /** In order of last use, the longest ago first. */
  readonly #seats = new Map<AdapterId, Seat>();
  /** The last entry is taken first, the lowest slot at the start. */
  readonly #freeSlots: SlotId[];
  /** Seated or not. */
  readonly #pinned = new Set<AdapterId>();
  #usedBytes = 0;

  /** @param numSlots at least 0 */
  constructor(numSlots: number, maxBytes: number) {
    this.numSlots = numSlots;
    this.maxBytes = maxBytes;
    this.#freeSlots = Array.from({ length: numSlots }, (_, index) =>
      asSlotId(numSlots - 1 - index),
    );
  }

  get numUsed(): number {
    return this.#seats.size;
  }

  /** Of those seated. */
  get numPinned(): number {
    let count = 0;
    for (const adapterId of this.#pinned) if (this.#seats.has(adapterId)) count++;
    return count;
  }

  get numFree(): number {
    return this.#freeSlots.length;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get freeBytes(): number {
    return this.maxBytes - this.#usedBytes;
  }

  slotOf(adapterId: AdapterId): SlotId | null {
    return this.#seats.get(adapterId)?.slot ?? null;
  }

  /** Seats an adapter in a free slot, leased; the sum of bytes may exceed the device, which then refuses it. */
  seat(adapterId: AdapterId, numBytes: number): SlotId {
    invariant(!this.#seats.has(adapterId), `adapter ${adapterId} has one slot at most`);
    const slot = this.#freeSlots.pop();
    invariant(slot !== undefined, "a slot is free");
    this.#seats.set(adapterId, { slot, numBytes, isLeased: true });
    this.#usedBytes += numBytes;
    return slot;
  }

  /** Every adapter on the device, the longest unused first. */
  seated(): (Unleased & { readonly isLeased: boolean })[] {
    return Array.from(this.#seats, ([adapterId, seat]) => ({ adapterId, ...seat }));
  }

  /** Makes a seated adapter stay. */
  lease(adapterId: AdapterId): void {
    this.#touch(adapterId).isLeased = true;
  }

  /** Lets a seated adapter go when room is needed, as the last of those. */
  release(adapterId: AdapterId): void {
    this.#touch(adapterId).isLeased = false;
  }

  /** Lets an adapter that is or will be seated stay without a lease. */
  pin(adapterId: AdapterId): void {
    this.#pinned.add(adapterId);
  }

  unpin(adapterId: AdapterId): void {
    this.#pinned.delete(adapterId);
  }

  isPinned(adapterId: AdapterId): boolean {
    return this.#pinned.has(adapterId);
  }

  isLeased(adapterId: AdapterId): boolean {
    return this.#seats.get(adapterId)?.isLeased ?? false;
  }

  /** Frees the slot of an adapter that nobody leases. */
  evict(adapterId: AdapterId): SlotId {
    const seat = this.#seats.get(adapterId);
    invariant(seat !== undefined && !seat.isLeased, `adapter ${adapterId} is seated and unleased`);
    this.#seats.delete(adapterId);
    this.#freeSlots.push(seat.slot);
    this.#usedBytes -= seat.numBytes;
    return seat.slot;
  }

  /** Adapters that may be evicted, the longest unused first. */
  unleased(): Unleased[] {
    const found: Unleased[] = [];
    for (const [adapterId, { slot, numBytes, isLeased }] of this.#seats) {
      if (!isLeased && !this.#pinned.has(adapterId)) found.push({ adapterId, slot, numBytes });
    }
    return found;
  }

  /** Moves an adapter to the end of the order of use. */
  #touch(adapterId: AdapterId): Seat {
    const seat = this.#seats.get(adapterId);
    invariant(seat !== undefined, `adapter ${adapterId} is seated`);
    this.#seats.delete(adapterId);
    this.#seats.set(adapterId, seat);
    return seat;
  }
}
