import { fromPromise } from "xstate";

export interface AwaitTurnInput {
  readonly yieldTurn: () => Promise<void>;
}

/** Waits for a turn of the event loop, so that requests that come together start together. */
export const awaitTurn = fromPromise<void, AwaitTurnInput>(({ input }) => input.yieldTurn());
