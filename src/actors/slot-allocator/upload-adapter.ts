import { fromPromise } from "xstate";
import type { AdapterImage, Backend } from "../../backend/backend.ts";
import type { AdapterId, SlotId } from "../../core/ids.ts";

export interface Upload {
  readonly adapterId: AdapterId;
  readonly image: AdapterImage;
  readonly slot: SlotId;
  /** The first of its run. */
  readonly extent: number;
}

export interface UploadAdapterInput {
  readonly backend: Pick<Backend, "attach">;
  /** Set while the machine uploads. */
  readonly upload: Upload | null;
}

/** Copies an adapter to the device while steps go on. */
export const uploadAdapter = fromPromise<void, UploadAdapterInput>(async ({ input }) => {
  const { backend, upload } = input;
  if (upload !== null) await backend.attach(upload.slot, upload.extent, upload.image);
});
