import type { LorikeetError } from "../../core/errors.ts";
import type { AdapterId, RequestId, SlotId } from "../../core/ids.ts";
import type { Finish } from "../../core/request.ts";
import type { Sequence } from "../../schedule/sequence.ts";

export type RequestSchedulerCommand =
  /** Queues a sequence that admission has let in. */
  | { readonly type: "request.submit"; readonly sequence: Sequence }
  | { readonly type: "request.cancel"; readonly requestId: RequestId }
  /** A sequence that could not take part in steps now can. */
  | { readonly type: "request.ready" }
  | {
      readonly type: "adapter.use";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
      readonly slot: SlotId;
    }
  /** Every slot is leased: somebody has to give one back. */
  | {
      readonly type: "adapter.block";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
    }
  | {
      readonly type: "adapter.refuse";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
      readonly error: LorikeetError;
    }
  /** Lets what is queued and running end; then `scheduler.drained`. */
  | { readonly type: "scheduler.drain" }
  /** Ends everything with `shutdown`. */
  | { readonly type: "scheduler.stop" };

export type RequestSchedulerFact =
  | {
      readonly type: "adapter.wanted";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
    }
  | {
      readonly type: "adapter.released";
      readonly adapterId: AdapterId;
      readonly leaseNumber: number;
    }
  | {
      readonly type: "request.ended";
      readonly requestId: RequestId;
      readonly adapterId: AdapterId | null;
      readonly tenant: string;
      /** Whether any step computed rows of it. */
      readonly hasRun: boolean;
      readonly finish: Finish;
    }
  | { readonly type: "scheduler.drained" }
  /** The backend is unusable; every request has ended with the error. */
  | { readonly type: "engine.failed"; readonly error: LorikeetError };
