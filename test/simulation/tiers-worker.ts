/** Runs its share of the seeds, so that both cores simulate. */
import { simulateTiers, type TierReport } from "./tiers.ts";

declare const self: Worker;

export interface TierShare {
  readonly seeds: readonly number[];
  readonly numSteps: number;
}
export type TierShareOutcome = { readonly reports: readonly TierReport[] } | { readonly error: string };

self.onmessage = async ({ data }: MessageEvent<TierShare>) => {
  try {
    const reports: TierReport[] = [];
    for (const seed of data.seeds) reports.push(await simulateTiers(seed, data.numSteps));
    self.postMessage({ reports } satisfies TierShareOutcome);
  } catch (thrown) {
    self.postMessage({ error: String(thrown) } satisfies TierShareOutcome);
  }
};
