/** Failures that are told again for a while, so that what is asked for often is not tried as often. */
import type { LorikeetError } from "../core/errors.ts";
import type { AdapterId } from "../core/ids.ts";

/** The latest, oldest first, at most `MAX_FAILURES`. */
export type RecentFailures = ReadonlyMap<AdapterId, { readonly error: LorikeetError; readonly untilMs: number }>;

const MAX_FAILURES = 256;

/** Why an adapter is not tried now; `null` where it may be. */
export function recentFailure(failures: RecentFailures, adapterId: AdapterId, nowMs: number): LorikeetError | null {
  const failure = failures.get(adapterId);
  return failure !== undefined && failure.untilMs > nowMs ? failure.error : null;
}

export function withFailure(failures: RecentFailures, adapterId: AdapterId, error: LorikeetError, untilMs: number): RecentFailures {
  const others = [...withoutFailure(failures, adapterId)].slice(1 - MAX_FAILURES);
  return new Map([...others, [adapterId, { error, untilMs }]]);
}

export const withoutFailure = (failures: RecentFailures, adapterId: AdapterId): RecentFailures =>
  new Map([...failures].filter(([id]) => id !== adapterId));
