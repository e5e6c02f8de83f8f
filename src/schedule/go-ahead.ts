/** When a step is composed before the result of the one under way is there. */
import type { StepPlan } from "./compose-step.ts";
import type { ScheduleTable } from "./schedule-table.ts";

/**
 * Rows of a step beyond which nothing is composed ahead of its end: its time makes up for the device's pause, and whoever comes
 * meanwhile is in the next step rather than in the one after.
 */
export const MAX_ROWS_AHEAD = 512;

/**
 * Whether the step behind `underWay` may be composed now.
 *
 * Not while somebody's pages or place are to be taken, nor while a sequence needs to know its tokens before the next is picked:
 * it would sit out every other step, which costs it more than the pause costs the others.
 *
 * @complexity O(entries)
 */
export const mayGoAhead = ({ wantsPause }: ScheduleTable, underWay: StepPlan): boolean =>
  !wantsPause &&
  underWay.numRows <= MAX_ROWS_AHEAD &&
  !underWay.entries.some(({ picksToken, sequence }) => picksToken && sequence.phase === "running" && sequence.output.needsTokens === true);
