import { fromPromise } from "xstate";
import type { AdapterImage, Backend } from "../../backend/backend.ts";
import type { AdapterId, SlotId } from "../../core/ids.ts";

export interface Upload {
  readonly adapterId: AdapterId;
  readonly image: AdapterImage;
  readonly slot: SlotId;
  /** Emptied first; none is leased. */
  readonly evicted: readonly SlotId[];
}

export interface UploadAdapterInput {
  readonly backend: Pick<Backend, "attach" | "detach">;
  /** Set while the machine uploads. */
  readonly upload: Upload | null;
}

/** Copies an adapter to the device, between two steps. */
export const uploadAdapter = fromPromise<void, UploadAdapterInput>(async ({ input }) => {
  const { backend, upload } = input;
  if (upload === null) return;
  for (const slot of upload.evicted) backend.detach(slot);
  await backend.attach(upload.slot, upload.image);
});
