/** Sixty-four adapters over four places on the device and sixteen in host memory: the short form of `run.ts`. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { churn, type ChurnReport, NUM_ADAPTERS } from "./churn.ts";

test("32 streams over 64 adapters for ten seconds: every answer is its adapter's, and nothing stays held", async () => {
  const report = await churn({ seconds: 10, numStreams: 32, warmUpSeconds: 5, replaceEveryMs: 250, seed: 1 });
  expect(report).toMatchObject({ wrong: [], errors: [] });
  expect(report.answers).toBeGreaterThan(NUM_ADAPTERS);
  expect(report.adapterLoads).toBeGreaterThan(NUM_ADAPTERS / 2);
  expect(report.adapterEvictions).toBeGreaterThan(0);
  expect(report.replaced).toBeGreaterThan(0);
  expect(report.mostOnDevice).toBeLessThanOrEqual(4);
  expect(report.mostInHostMemory).toBeLessThanOrEqual(16);
  expect(report.heldAtEnd).toEqual({ usedPages: 0, runningRequests: 0, waitingRequests: 0, draining: 0 });
}, 60_000);

describe("the recorded five minutes", () => {
  const recorded = JSON.parse(readFileSync(join(import.meta.dir, "results.json"), "utf8")) as ChurnReport & { readonly maxGrowthMiB: number };

  test("used every adapter without a wrong answer or an error, in memory that stays flat", () => {
    expect(recorded).toMatchObject({ wrong: [], errors: [], adapters: NUM_ADAPTERS, adaptersUsed: NUM_ADAPTERS, streams: 32, onDevice: 4, inHostMemory: 16 });
    expect(recorded.seconds).toBeGreaterThanOrEqual(300);
    expect(recorded.growthMiB).toBeLessThanOrEqual(recorded.maxGrowthMiB);
  });
});
