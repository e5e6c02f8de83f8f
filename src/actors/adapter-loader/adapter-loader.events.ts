import type { AdapterImage } from "../../backend/backend.ts";
import type { LorikeetError } from "../../core/errors.ts";
import type { AdapterId } from "../../core/ids.ts";
import type { AdapterReport } from "../../lora/adapter-report.ts";

/** An adapter read from its files and laid out for the device. */
export interface StagedAdapter {
  readonly image: AdapterImage;
  readonly report: AdapterReport;
}

export type AdapterLoaderCommand =
  /** Reads an adapter; one that is being read already is not read twice. */
  | { readonly type: "adapter.load"; readonly adapterId: AdapterId }
  /** Nobody wants it any more: a read under way is not told of, nor is a failure remembered. */
  | { readonly type: "adapter.forget"; readonly adapterId: AdapterId };

export type AdapterLoaderFact =
  | { readonly type: "adapter.reading"; readonly adapterId: AdapterId }
  | {
      readonly type: "adapter.loaded";
      readonly adapterId: AdapterId;
      readonly staged: StagedAdapter;
    }
  | {
      readonly type: "adapter.failed";
      readonly adapterId: AdapterId;
      readonly error: LorikeetError;
    };

/** What one load tells the loader at its end. */
export interface LoadFinished {
  readonly type: "load.finished";
  readonly adapterId: AdapterId;
  readonly outcome: LoadOutcome;
}

export type LoadOutcome =
  | { readonly staged: StagedAdapter; readonly error: null }
  | { readonly staged: null; readonly error: LorikeetError };
