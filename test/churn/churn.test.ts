/** Sixty-four adapters over four places on the device and sixteen in host memory: the short form of `run.ts`. */
import { expect, test } from "bun:test";
import { churn, NUM_ADAPTERS } from "./churn.ts";

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
