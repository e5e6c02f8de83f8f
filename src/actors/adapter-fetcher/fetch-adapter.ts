import { fromCallback, type EventObject } from "xstate";
import { toLorikeetError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";
import type { FetchFinished } from "./adapter-fetcher.events.ts";

export interface FetchAdapterInput {
  readonly adapterId: AdapterId;
  /** Brings an adapter's files to this machine, until it is told to stop. */
  readonly fetch: (adapterId: AdapterId, signal: AbortSignal) => Promise<void>;
}

export const fetchAdapter = fromCallback<EventObject, FetchAdapterInput>(({ input: { adapterId, fetch }, sendBack }) => {
  const stopping = new AbortController();
  const finish = (error: FetchFinished["error"]): void => {
    if (!stopping.signal.aborted) sendBack({ type: "fetch.finished", adapterId, error } satisfies FetchFinished);
  };
  fetch(adapterId, stopping.signal).then(() => finish(null), (thrown: unknown) => finish(toLorikeetError(thrown)));
  return () => stopping.abort();
});
