import { fromPromise } from "xstate";
import type { AdapterId } from "../../core/ids.ts";
import type { StagedAdapter } from "./adapter-loader.events.ts";

export interface ReadAdapterInput {
  readonly adapterId: AdapterId;
  /** Reads, checks and stages; throws an `AdapterError` for bad files and the system's own error for failing I/O. */
  readonly read: (adapterId: AdapterId) => Promise<StagedAdapter>;
}

export const readAdapter = fromPromise<StagedAdapter, ReadAdapterInput>(({ input }) =>
  input.read(input.adapterId),
);
