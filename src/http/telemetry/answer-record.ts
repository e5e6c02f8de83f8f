/** What is told of an answer when it is over: to the log, and to a trace. Never its prompt or its text. */
import type { ErrorCode } from "../../core/errors.ts";
import type { Finish, Usage } from "../../core/request.ts";

export interface AnswerRecord {
  readonly requestId: string;
  /** Headers of the request, for the trace that it belongs to. */
  readonly headers: Headers;
  readonly route: string;
  /** Name of the key that was sent; empty without one. */
  readonly client: string;
  /** As the client wrote it. */
  readonly model: string;
  /** `null` for the base model. */
  readonly adapter: string | null;
  readonly isStream: boolean;
  /** Unix milliseconds at which the request was queued. */
  readonly startUnixMs: number;
  readonly durationMs: number;
  readonly usage: Usage;
  /** One per choice; `null` for a choice that its reader did not see end. */
  readonly finishes: readonly (Finish | null)[];
  /** `client_left` for an answer that nobody waited for any more. */
  readonly error: ErrorCode | "client_left" | null;
}

export type AnswerListener = (record: AnswerRecord) => void;
