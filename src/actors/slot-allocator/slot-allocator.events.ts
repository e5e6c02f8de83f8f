import type { AdapterImage } from "../../backend/backend.ts";
import type { LorikeetError } from "../../core/errors.ts";
import type { AdapterId, SlotId } from "../../core/ids.ts";

export type SlotAllocatorCommand =
  /** Wants a slot for an adapter; answered once by `slot.granted` or `slot.refused`, unless released before. */
  | { readonly type: "slot.lease"; readonly adapterId: AdapterId; readonly leaseNumber: number }
  /** Gives a lease back, granted or not. No step names the slot any more. */
  | { readonly type: "slot.release"; readonly adapterId: AdapterId; readonly leaseNumber: number }
  /** Once on the device, it stays there. */
  | { readonly type: "slot.pin"; readonly adapterId: AdapterId }
  /** It leaves the device as soon as nobody leases it, and is not asked for again. */
  | { readonly type: "slot.forget"; readonly adapterId: AdapterId }
  /** An unleased adapter had to make room for pages, and is gone. */
  | { readonly type: "slot.reclaim"; readonly adapterId: AdapterId; readonly slot: SlotId }
  /** All of the claimed run is free. */
  | { readonly type: "slot.room" }
  | {
      readonly type: "image.deliver";
      readonly adapterId: AdapterId;
      readonly image: AdapterImage;
    }
  | { readonly type: "image.fail"; readonly adapterId: AdapterId; readonly error: LorikeetError };

export type SlotAllocatorFact =
  | { readonly type: "image.wanted"; readonly adapterId: AdapterId }
  | {
      readonly type: "slot.granted";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
      readonly slot: SlotId;
    }
  /** The image is there, but every slot, or the memory, is in use. Said again after each release. */
  | { readonly type: "slot.blocked"; readonly adapterId: AdapterId; readonly leaseNumber: number }
  | {
      readonly type: "slot.refused";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
      readonly error: LorikeetError;
    }
  | { readonly type: "slot.filled"; readonly adapterId: AdapterId; readonly slot: SlotId }
  | { readonly type: "slot.evicted"; readonly adapterId: AdapterId; readonly slot: SlotId };
