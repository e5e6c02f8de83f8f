/** A stand-in for a device: a step takes a fixed time, nothing is computed, and every sequence's token is the number of its step. */
import type { Backend, BackendOptions } from "../../src/backend/backend.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import { machineClock } from "./clocks.ts";

export interface PacedOptions extends Pick<BackendOptions, "maxRows" | "maxSequences" | "numPages" | "numSlots"> {
  readonly stepMs: number;
  /** Whether a step that is asked for late also ends late, as on a device; else steps keep to one beat. */
  readonly idles: boolean;
  readonly vocabSize: number;
  /** Hears when a step's tokens are there, by the machine's monotonic clock in milliseconds. */
  readonly onStep?: (atMs: number) => void;
}

export const PACED_PAGE_TOKENS = 64;

export function pacedBackend({ stepMs, idles, vocabSize, onStep, ...sizes }: PacedOptions): Backend {
  const nowMs = machineClock();
  let steps = 0;
  let dueMs = 0;
  return {
    info: { name: "wasm", description: `a stand-in device of ${stepMs} ms a step`, pageTokens: PACED_PAGE_TOKENS, numExtents: sizes.numPages + sizes.numSlots, extentBytes: 1, weightBytes: 0, ...sizes },
    async run({ sequences }) {
      dueMs = idles ? Math.max(dueMs, nowMs()) + stepMs : Math.max(dueMs + stepMs, nowMs());
      await Bun.sleep(Math.max(0, dueMs - nowMs()));
      onStep?.(nowMs());
      const token: SampledToken = { id: steps++ % vocabSize, logprob: 0, rank: 1, top: [] };
      return { sampled: sequences.flatMap(({ sample }) => (sample === null ? [] : [token])), computeMs: stepMs };
    },
    stage: ({ digest }) => Promise.resolve({ digest, numBytes: 1 }),
    attach: () => Promise.resolve(),
    detach: () => undefined,
    close: () => Promise.resolve(),
  };
}
