import { describe, expect, test } from "bun:test";
import { simulate } from "./simulate.ts";

/** `SIMULATION_SEED=n` replays one seed, `SIMULATION_SEEDS=n` runs that many. */
const only = process.env["SIMULATION_SEED"];
const numSeeds = Number(process.env["SIMULATION_SEEDS"] ?? 60);
const NUM_TICKS = 2000;
const seeds =
  only === undefined ? Array.from({ length: numSeeds }, (_, i) => i + 1) : [Number(only)];

describe("the runtime under load drawn from a seed", () => {
  test("ends every request once, with the tokens it gives alone, in bounded time, and leaks nothing", async () => {
    let steps = 0;
    let stepsTakenAhead = 0;
    let preemptions = 0;
    let evictions = 0;
    let prefixHits = 0;
    const reasons = new Set<string>();
    for (const seed of seeds) {
      const report = await simulate(seed, NUM_TICKS);
      steps += report.steps;
      stepsTakenAhead += report.stepsTakenAhead;
      preemptions += report.preemptions;
      evictions += report.evictions;
      prefixHits += report.prefixHits;
      for (const [reason, count] of Object.entries(report.reasons)) {
        if (count > 0) reasons.add(reason);
      }
    }
    // A simulation in which little happens proves little.
    expect(steps).toBeGreaterThan(500 * seeds.length);
    if (seeds.length < 20) return;
    expect(stepsTakenAhead).toBeGreaterThan(200 * seeds.length);
    expect(preemptions).toBeGreaterThan(100);
    expect(evictions).toBeGreaterThan(1000);
    expect(prefixHits).toBeGreaterThan(1000);
    expect([...reasons].toSorted()).toEqual(["cancelled", "error", "length", "stop", "timeout"]);
  }, 120_000);

  test("runs the same way again for the same seed", async () => {
    for (const seed of [3, 7]) {
      expect(await simulate(seed, 500)).toEqual(await simulate(seed, 500));
    }
  });
});
