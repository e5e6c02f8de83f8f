import type { LorikeetError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";

/** What for: a lease of that number, or `null` to be read ahead of one. */
export type FetchPurpose = number | null;

export type AdapterFetcherCommand =
  /** Wants the files of an adapter that is elsewhere; a lease is answered once by `fetch.done` or `fetch.refused`, unless released. */
  | { readonly type: "fetch.want"; readonly adapterId: AdapterId; readonly leaseNumber: FetchPurpose }
  /** The lease is wanted no more; a download under way goes on, for whoever comes next. */
  | { readonly type: "fetch.release"; readonly adapterId: AdapterId; readonly leaseNumber: number }
  /** Nobody will want it again: its download ends, and nobody is told. */
  | { readonly type: "fetch.forget"; readonly adapterId: AdapterId };

export type AdapterFetcherFact =
  | { readonly type: "adapter.fetching"; readonly adapterId: AdapterId }
  /** Its files are here. */
  | { readonly type: "adapter.fetched"; readonly adapterId: AdapterId }
  /** The same, for each who wanted it. */
  | { readonly type: "fetch.done"; readonly adapterId: AdapterId; readonly leaseNumber: FetchPurpose }
  | { readonly type: "adapter.failed"; readonly adapterId: AdapterId; readonly error: LorikeetError }
  | {
      readonly type: "fetch.refused";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
      readonly error: LorikeetError;
    };

/** What one download tells the fetcher at its end. */
export interface FetchFinished {
  readonly type: "fetch.finished";
  readonly adapterId: AdapterId;
  /** `null` where its files are here now. */
  readonly error: LorikeetError | null;
}
