/** Whether a request may join the queue. Nothing is kept of one that may not. */
import { CapacityError, RequestError } from "../core/errors.ts";
import { joinQueue } from "./lanes.ts";
import { noteReady } from "./leases.ts";
import type { ScheduleLimits, ScheduleTable } from "./schedule-table.ts";
import { groupOf } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

export const promptTooLong = (promptLength: number, maxContext: number): RequestError =>
  new RequestError(
    "context_length_exceeded",
    `the prompt has ${promptLength} tokens, but at most ${maxContext} fit with at least one token of ` +
      `output; shorten it to ${maxContext - 1} tokens or fewer`,
    { field: "prompt", details: { promptLength, maxContext } },
  );

/** @param field as the caller spells it */
export const tooManyTokens = (field: string, maxTokens: number, promptLength: number, maxContext: number): RequestError =>
  new RequestError(
    "context_length_exceeded",
    `the prompt has ${promptLength} tokens and ${field} asks for up to ${maxTokens} more, but at most ${maxContext} ` +
      `fit together; ask for ${maxContext - promptLength} or fewer`,
    { field, details: { promptLength, maxTokens, maxContext } },
  );

/**
 * Holds a request to the context, so that the page pool can always hold the longest sequence alone.
 *
 * @throws {RequestError} `context_length_exceeded`
 */
export function checkContext(
  limits: ScheduleLimits,
  promptLength: number,
  maxTokens: number,
): void {
  const { maxContext } = limits;
  if (promptLength >= maxContext) throw promptTooLong(promptLength, maxContext);
  if (promptLength + maxTokens <= maxContext) return;
  throw tooManyTokens("maxTokens", maxTokens, promptLength, maxContext);
}

/** @throws {CapacityError} `queue_full` */
export function checkQueueRoom(table: ScheduleTable, promptLength: number): void {
  const { maxWaitingRequests, maxWaitingTokens } = table.limits;
  if (table.numWaiting >= maxWaitingRequests) {
    throw new CapacityError(
      "queue_full",
      `${table.numWaiting} requests are waiting and at most ${maxWaitingRequests} may; try again later`,
      { details: { numWaiting: table.numWaiting, maxWaitingRequests } },
    );
  }
  if (table.numWaiting > 0 && table.waitingTokens + promptLength > maxWaitingTokens) {
    throw new CapacityError(
      "queue_full",
      `${table.waitingTokens} prompt tokens are waiting and at most ${maxWaitingTokens} may; try again later`,
      { details: { waitingTokens: table.waitingTokens, promptLength, maxWaitingTokens } },
    );
  }
}

/** Puts an admitted sequence in its lane. */
export function enqueue(table: ScheduleTable, sequence: Sequence): void {
  joinQueue(table, sequence);
  table.sequences.set(sequence.id, sequence);
  table.nextDeadlineMs = Math.min(table.nextDeadlineMs, sequence.deadlineMs);
  if (groupOf(table, sequence.adapter).lease === "held") noteReady(table, sequence, sequence.submittedMs);
}
