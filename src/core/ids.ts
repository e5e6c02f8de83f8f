/** Branded identifiers: numbers and strings that cannot be mixed up. */

declare const brand: unique symbol;
type Brand<T, Name> = T & { readonly [brand]: Name };

/** One generation: a server-made id, never chosen by a client. */
export type RequestId = Brand<string, "RequestId">;

/** One registered content of one adapter name; a name that gets new content gets a new id. */
export type AdapterId = Brand<number, "AdapterId">;

/** An adapter's place in the device tables, `0 <= slot < numSlots`. The base model is `NO_SLOT`. */
export type SlotId = Brand<number, "SlotId">;

/** One page of the KV pool, `0 <= page < numPages`. */
export type PageId = Brand<number, "PageId">;

export const NO_SLOT = -1 as SlotId;

export const asRequestId = (id: string): RequestId => id as RequestId;
export const asAdapterId = (id: number): AdapterId => id as AdapterId;
export const asSlotId = (id: number): SlotId => id as SlotId;
export const asPageId = (id: number): PageId => id as PageId;
