/** Which adapter sits in which slot of the device, where its bytes lie, and which of them may be taken away. */
import { invariant } from "../core/errors.ts";
import type { ExtentPool } from "../core/extent-pool.ts";
import { asSlotId, type AdapterId, type SlotId } from "../core/ids.ts";

interface Seat {
  readonly slot: SlotId;
  /** Of its whole extents. */
  readonly numBytes: number;
  /** The first of them. */
  readonly extent: number;
  isLeased: boolean;
}

/** An adapter on the device. */
export interface Seated extends Readonly<Seat> {
  readonly adapterId: AdapterId;
}

export interface SlotPoolOptions {
  readonly numSlots: number;
  /** Most bytes of all adapters. */
  readonly maxBytes: number;
  readonly extents: ExtentPool;
  readonly extentBytes: number;
}

export class SlotPool {
  readonly numSlots: number;
  readonly maxBytes: number;
  /** Hears of an adapter that had to make room for pages, or for an adapter of whose run its bytes were a part. */
  onReclaim: (gone: Seated) => void = () => {};
  /** Hears that all of the claimed room has come free. */
  onRoom: () => void = () => {};
  readonly #extents: ExtentPool;
  readonly #extentBytes: number;
  /** In order of last use, the longest ago first. */
  readonly #seats = new Map<AdapterId, Seat>();
  /** The last entry is taken first, the lowest slot at the start. */
  readonly #freeSlots: SlotId[];
  /** Seated or not. */
  readonly #pinned = new Set<AdapterId>();
  #usedBytes = 0;

  /** `numSlots` is at least 0. */
  constructor({ numSlots, maxBytes, extents, extentBytes }: SlotPoolOptions) {
    this.numSlots = numSlots;
    this.maxBytes = maxBytes;
    this.#extents = extents;
    this.#extentBytes = extentBytes;
    extents.onRunFree = () => this.onRoom();
    this.#freeSlots = Array.from({ length: numSlots }, (_, index) =>
      asSlotId(numSlots - 1 - index),
    );
  }

  get numUsed(): number {
    return this.#seats.size;
  }

  /** Of those seated and pinned: it stays theirs. */
  get pinnedBytes(): number {
    let numBytes = 0;
    for (const adapterId of this.#pinned) numBytes += this.#seats.get(adapterId)?.numBytes ?? 0;
    return numBytes;
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

  /** What an adapter of `numBytes` takes of the device: whole extents. */
  roundUp(numBytes: number): number {
    return this.#numExtents(numBytes) * this.#extentBytes;
  }

  /** Whether there is a run of extents for an adapter of `numBytes` now; unleased adapters and idle pages make room. */
  hasRoom(numBytes: number): boolean {
    return this.#extents.hasRun(this.#numExtents(numBytes));
  }

  /** Whether there may ever be one, beside those that are pinned. */
  mayHaveRoom(numBytes: number): boolean {
    return this.#extents.mayHaveRun(this.#numExtents(numBytes));
  }

  /** Keeps what comes free in the best place for an adapter of `numBytes`, until one is seated or nobody waits. */
  claimRoom(numBytes: number | null): void {
    if (numBytes === null) this.#extents.dropClaim();
    else this.#extents.claimRun(this.#numExtents(numBytes));
  }

  /** Seats an adapter in a free slot, leased; `hasRoom` holds, and what is idle in its place goes. */
  seat(adapterId: AdapterId, numBytes: number): Seated {
    invariant(!this.#seats.has(adapterId), `adapter ${adapterId} has one slot at most`);
    const slot = this.#freeSlots.pop();
    invariant(slot !== undefined, "a slot is free");
    const extent = this.#extents.takeRun(this.#numExtents(numBytes));
    invariant(extent !== null, "there is room");
    const seat = { slot, numBytes: this.roundUp(numBytes), extent, isLeased: true };
    this.#seats.set(adapterId, seat);
    if (this.#pinned.has(adapterId)) this.#pinDown(seat, true);
    this.#usedBytes += seat.numBytes;
    return { adapterId, ...seat };
  }

  /** Every adapter on the device, the longest unused first. */
  seated(): Seated[] {
    return Array.from(this.#seats, ([adapterId, seat]) => ({ adapterId, ...seat }));
  }

  /** Makes a seated adapter stay. */
  lease(adapterId: AdapterId): void {
    const seat = this.#touch(adapterId);
    seat.isLeased = true;
    this.#extents.use(seat.extent);
  }

  /** Lets a seated adapter go when room is needed, as the last of those. */
  release(adapterId: AdapterId): void {
    const seat = this.#touch(adapterId);
    if (!seat.isLeased) return;
    seat.isLeased = false;
    if (!this.#pinned.has(adapterId)) this.#rest(adapterId, seat);
  }

  /** Lets an adapter that is or will be seated stay without a lease. */
  pin(adapterId: AdapterId): void {
    this.#pinned.add(adapterId);
    const seat = this.#seats.get(adapterId);
    if (seat === undefined) return;
    this.#extents.use(seat.extent);
    this.#pinDown(seat, true);
  }

  unpin(adapterId: AdapterId): void {
    const seat = this.#seats.get(adapterId);
    if (!this.#pinned.delete(adapterId) || seat === undefined) return;
    this.#pinDown(seat, false);
    if (!seat.isLeased) this.#rest(adapterId, seat);
  }

  isLeased(adapterId: AdapterId): boolean {
    return this.#seats.get(adapterId)?.isLeased ?? false;
  }

  /** Frees the slot and the memory of an adapter that nobody leases. */
  evict(adapterId: AdapterId): SlotId {
    const seat = this.#seats.get(adapterId);
    invariant(seat !== undefined && !seat.isLeased, `adapter ${adapterId} is seated and unleased`);
    this.#seats.delete(adapterId);
    this.#freeSlots.push(seat.slot);
    this.#usedBytes -= seat.numBytes;
    this.#extents.free(seat.extent, seat.numBytes / this.#extentBytes);
    return seat.slot;
  }

  /** Takes back a seat whose adapter never came to the device. */
  unseat(adapterId: AdapterId): void {
    const seat = this.#seats.get(adapterId);
    if (seat !== undefined) seat.isLeased = false;
    this.evict(adapterId);
  }

  /** Adapters that may be evicted, the longest unused first. */
  unleased(): Seated[] {
    return this.seated().filter(({ adapterId, isLeased }) => !isLeased && !this.#pinned.has(adapterId));
  }

  /** Nobody uses it now, so that others may have its place. */
  #rest(adapterId: AdapterId, seat: Seat): void {
    this.#extents.setIdle(seat.extent, seat.numBytes / this.#extentBytes, () => {
      this.evict(adapterId);
      this.onReclaim({ adapterId, ...seat });
    });
  }

  #pinDown({ extent, numBytes }: Seat, isPinned: boolean): void {
    this.#extents.setPinned(extent, numBytes / this.#extentBytes, isPinned);
  }

  #numExtents(numBytes: number): number {
    return Math.max(1, Math.ceil(numBytes / this.#extentBytes));
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
