/** Whether a request may join the queue. Nothing is kept of one that may not. */
import { CapacityError, RequestError } from "../core/errors.ts";
import type { Sampling } from "../core/sampling.ts";
import type { ScheduleLimits, ScheduleTable } from "./schedule-table.ts";
import { groupOf } from "./schedule-table.ts";
import type { Sequence } from "./sequence.ts";

/**
 * Limits the output to what is left of the context.
 *
 * @throws {RequestError} `context_length_exceeded` when the prompt leaves no room for a token
 */
export function fitContext(limits: ScheduleLimits, promptLength: number, sampling: Sampling): Sampling {
  const room = limits.maxContext - promptLength;
  if (room < 1) {
    throw new RequestError(
      "context_length_exceeded",
      `the prompt has ${promptLength} tokens, but at most ${limits.maxContext} fit with at least one ` +
        `token of output; shorten it to ${limits.maxContext - 1} tokens or fewer`,
      { field: "prompt", details: { promptLength, maxContext: limits.maxContext } },
    );
  }
  if (sampling.maxTokens <= room) return sampling;
  return { ...sampling, maxTokens: room, minTokens: Math.min(sampling.minTokens, room) };
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

/** Puts an admitted sequence at the end of its adapter's queue. */
export function enqueue(table: ScheduleTable, sequence: Sequence): void {
  const group = groupOf(table, sequence.adapter);
  sequence.queuedStep = table.step;
  group.waiting.push(sequence);
  table.sequences.set(sequence.id, sequence);
  table.numWaiting++;
  table.waitingTokens += sequence.length;
  table.nextDeadlineMs = Math.min(table.nextDeadlineMs, sequence.deadlineMs);
  if (group.lease === "held") sequence.adapterReadyMs = sequence.submittedMs;
}
