/**
 * One load of one adapter, with its retries.
 *
 *   reading ── done ──────────────────────────▶ finished
 *     ▲  └── error ──▶ transient, attempts left: backoff ── after delay ──▶ reading
 *     │                otherwise: finished
 *     └── nothing for `timeoutMs` ────────────▶ finished
 *
 * Only failing I/O is tried again: a bad file is as bad the second time.
 */
import { assign, sendParent, setup } from "xstate";
import type { AdapterId } from "../../core/ids.ts";
import type { LoadFinished, LoadOutcome } from "./adapter-loader.events.ts";
import { timeoutError, toLoadError, transientCode } from "./load-failure.ts";
import { readAdapter, type ReadAdapterInput } from "./read-adapter.ts";

export interface LoadInput extends ReadAdapterInput {
  /** Reads before the load fails; at least 1. */
  readonly maxAttempts: number;
  /** Wait after the first failed read; doubles with every further one. */
  readonly backoffMs: number;
  /** Longest read. */
  readonly timeoutMs: number;
}

interface LoadContext extends LoadInput {
  readonly numAttempts: number;
}

export const loadMachine = setup({
  types: { context: {} as LoadContext, input: {} as LoadInput },
  actors: { readAdapter },
  delays: {
    timeout: ({ context }) => context.timeoutMs,
    backoff: ({ context }) => context.backoffMs * 2 ** (context.numAttempts - 1),
  },
  guards: {
    mayTryAgain: ({ context }, params: { readonly thrown: unknown }) =>
      context.numAttempts < context.maxAttempts && transientCode(params.thrown) !== null,
  },
  actions: {
    countAttempt: assign({ numAttempts: ({ context }) => context.numAttempts + 1 }),
    tellParent: sendParent(
      (
        { context },
        params: { readonly adapterId: AdapterId; readonly outcome: LoadOutcome },
      ): LoadFinished => ({
        type: "load.finished",
        adapterId: context.adapterId,
        outcome: params.outcome,
      }),
    ),
  },
}).createMachine({
  id: "load",
  context: ({ input }) => ({ ...input, numAttempts: 0 }),
  initial: "reading",
  states: {
    reading: {
      entry: "countAttempt",
      after: {
        timeout: {
          target: "finished",
          actions: {
            type: "tellParent",
            params: ({ context }) => ({
              adapterId: context.adapterId,
              outcome: { staged: null, error: timeoutError(context.timeoutMs) },
            }),
          },
        },
      },
      invoke: {
        src: "readAdapter",
        input: ({ context: { adapterId, read } }) => ({ adapterId, read }),
        onDone: {
          target: "finished",
          actions: {
            type: "tellParent",
            params: ({ context, event }) => ({
              adapterId: context.adapterId,
              outcome: { staged: event.output, error: null },
            }),
          },
        },
        onError: [
          {
            guard: { type: "mayTryAgain", params: ({ event }) => ({ thrown: event.error }) },
            target: "backoff",
          },
          {
            target: "finished",
            actions: {
              type: "tellParent",
              params: ({ context, event }) => ({
                adapterId: context.adapterId,
                outcome: { staged: null, error: toLoadError(event.error, context.numAttempts) },
              }),
            },
          },
        ],
      },
    },
    backoff: { after: { backoff: "reading" } },
    finished: { type: "final" },
  },
});
