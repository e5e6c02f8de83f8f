import type { AdapterId } from "../../core/ids.ts";
import type { StagedAdapter } from "../adapter-loader/adapter-loader.events.ts";

export type HostCacheCommand =
  /** Answered by `image.found` or `image.missed`. */
  | { readonly type: "image.get"; readonly adapterId: AdapterId }
  | {
      readonly type: "image.put";
      readonly adapterId: AdapterId;
      readonly staged: StagedAdapter;
    }
  /** Keeps its image, now or once there is one, whatever else is put. */
  | { readonly type: "image.pin"; readonly adapterId: AdapterId }
  /** Its image is not wanted any more, pinned or not. */
  | { readonly type: "image.forget"; readonly adapterId: AdapterId };

export type HostCacheFact =
  | {
      readonly type: "image.found";
      readonly adapterId: AdapterId;
      readonly staged: StagedAdapter;
    }
  | { readonly type: "image.missed"; readonly adapterId: AdapterId }
  | { readonly type: "image.kept"; readonly adapterId: AdapterId }
  /** Dropped for others, or larger than the whole cache. */
  | { readonly type: "image.dropped"; readonly adapterId: AdapterId };
