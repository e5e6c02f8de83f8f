import { describe, expect, test } from "bun:test";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { asAdapterId } from "../../src/core/ids.ts";
import type { StagedAdapter } from "../../src/actors/adapter-loader/adapter-loader.events.ts";
import { HostLru } from "../../src/lora/host-lru.ts";
import { SlotPool } from "../../src/lora/slot-pool.ts";
import { type Mutant, simulateTiers, type TierReport } from "./tiers.ts";
import type { TierShare, TierShareOutcome } from "./tiers-worker.ts";

/** `TIER_SEED=n` replays one seed, `TIER_STEPS=n` runs that many steps. */
const only = process.env["TIER_SEED"];
const NUM_STEPS = Number(process.env["TIER_STEPS"] ?? 1_000_000);
const STEPS_PER_SEED = 4000;
const NUM_WORKERS = 2;

async function inWorkers(seeds: readonly number[]): Promise<TierReport[]> {
  const shares = Array.from({ length: NUM_WORKERS }, (_, i) => seeds.filter((_seed, at) => at % NUM_WORKERS === i));
  const outcomes = await Promise.all(shares.map(inWorker));
  return outcomes.flatMap((outcome) => {
    if ("error" in outcome) throw new Error(outcome.error);
    return [...outcome.reports];
  });
}

function inWorker(seeds: readonly number[]): Promise<TierShareOutcome> {
  const worker = new Worker(new URL("tiers-worker.ts", import.meta.url).href);
  const { promise, resolve, reject } = Promise.withResolvers<TierShareOutcome>();
  worker.onmessage = ({ data }: MessageEvent<TierShareOutcome>) => resolve(data);
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage({ seeds, numSteps: STEPS_PER_SEED } satisfies TierShare);
  return promise.finally(() => worker.terminate());
}

describe("tiers of adapters under faults", () => {
  test("keep every promise at every step, for a million steps", async () => {
    const seeds = only === undefined ? Array.from({ length: Math.ceil(NUM_STEPS / STEPS_PER_SEED) }, (_, i) => i + 1) : [Number(only)];
    const reports = await inWorkers(seeds);
    const sum = (of: (report: TierReport) => number): number => reports.reduce((total, report) => total + of(report), 0);
    const steps = sum((report) => report.steps);
    console.log(`adapter tiers: ${steps} steps simulated, ${sum(({ requests }) => requests)} requests, ${sum(({ reads }) => reads)} reads, ${sum(({ uploads }) => uploads)} uploads`);
    expect(steps).toBe(seeds.length * STEPS_PER_SEED);
    if (only !== undefined || NUM_STEPS < 1_000_000) return;
    expect(steps).toBeGreaterThanOrEqual(1_000_000);
    // A simulation in which little happens proves little.
    const happened = {
      done: sum(({ ended }) => ended.done),
      cancelled: sum(({ ended }) => ended.cancelled),
      refused: sum(({ ended }) => ended.refused),
      fetches: sum(({ fetches }) => fetches),
      failedFetches: sum(({ failedFetches }) => failedFetches),
      failedReads: sum(({ failedReads }) => failedReads),
      hungReads: sum(({ hungReads }) => hungReads),
      failedUploads: sum(({ failedUploads }) => failedUploads),
      evictions: sum(({ evictions }) => evictions),
      replaced: sum(({ replaced }) => replaced),
      unloaded: sum(({ unloaded }) => unloaded),
      pinned: sum(({ pinned }) => pinned),
      reclaimed: sum(({ reclaimed }) => reclaimed),
      claimed: sum(({ claimed }) => claimed),
      grown: sum(({ grown }) => grown),
    };
    for (const [what, count] of Object.entries(happened)) expect({ what, isOften: count > 1000 }).toEqual({ what, isOften: true });
  }, 240_000);

  test("go the same way again for the same seed", async () => {
    for (const seed of [2, 9]) expect(await simulateTiers(seed, 1000)).toEqual(await simulateTiers(seed, 1000));
  });
});

class Pool extends SlotPool {}
class Cache extends HostLru<StagedAdapter> {}
const cacheWith = (change: (cache: Cache) => void): Mutant => ({
  lru: (maxBytes, maxAdapters) => {
    const cache = new Cache(maxBytes, maxAdapters);
    change(cache);
    return cache;
  },
});
const poolWith = (change: (pool: Pool) => void): Mutant => ({
  pool: (options) => {
    const pool = new Pool(options);
    change(pool);
    return pool;
  },
});
const extentsWith = (change: (extents: ExtentPool) => void): Mutant => ({
  extents: (numExtents) => {
    const extents = new ExtentPool(numExtents);
    change(extents);
    return extents;
  },
});

/** Each breaks one rule; the simulation must notice it by the promise named. */
const MUTANTS: readonly (readonly [rule: string, broken: RegExp, mutant: Mutant])[] = [
  ["a lease on a seated adapter holds", /holds its lease|keeps its slot/, poolWith((pool) => (pool.lease = () => undefined))],
  ["a lease that is given back is free", /goes|nothing is leased|no slot holds|everything ends/, poolWith((pool) => (pool.release = () => undefined))],
  ["a pinned adapter stays on the device", /stays on the device/, poolWith((pool) => (pool.pin = () => undefined))],
  ["a pinned adapter stays in host memory", /stays in host memory/, cacheWith((cache) => (cache.pin = () => undefined))],
  ["the host cache counts what it holds", /keeps its limits|counts its bytes/, cacheWith((cache) => {
    const put = cache.put.bind(cache);
    cache.put = (adapterId, staged) => put(adapterId, staged, 1);
  })],
  ["an adapter in use has its place for itself", /extents can be had|freed once/, extentsWith((extents) => (extents.use = () => undefined))],
  ["what comes free in a claim waits for the rest", /everything ends/, extentsWith((extents) => (extents.claimRun = () => undefined))],
  ["memory that is given back is free", /extents can be had|everything ends/, extentsWith((extents) => (extents.free = () => undefined))],
  ["the host cache forgets", /nothing that was forgotten|every image at idle/, cacheWith((cache) => (cache.forget = () => undefined))],
  ["the device forgets", /no slot holds what was forgotten|every seat at idle/, { tiers: (tiers) => ({ ...tiers, forget: () => undefined }) }],
  ["content is found by its id, not by its name", /is the content of|not \d+#\d+/, {
    stage: (stage) => {
      const byName = new Map<string, StagedAdapter>();
      return async (record) => {
        const staged = byName.get(record.name) ?? (await stage(record));
        byName.set(record.name, staged);
        return staged;
      };
    },
  }],
  ["content that changed on disk is not taken for the earlier one", /goes on with what it began with/, { stage: (stage) => (record) => stage(Object.assign(Object.create(record) as typeof record, { digest: null })) }],
  ["a failure is forgotten in time", /a failure of late/, { loadFailureMs: 1e9 }],
  ["a read that hangs is given up", /everything ends/, { loadTimeoutMs: 1e9 }],
  ["a lease that is given back while its adapter comes is nobody's", /which is waited for, is answered|nothing is leased|goes/, {
    tiers: (tiers) => ({ ...tiers, release: (adapterId, leaseNumber) => tiers.slots.send({ type: "slot.release", adapterId, leaseNumber }) }),
  }],
  ["what is elsewhere is fetched before it is read", /is not read/, { tiers: (tiers) => ({ ...tiers, lease: (adapterId, leaseNumber) => tiers.slots.send({ type: "slot.lease", adapterId, leaseNumber }) }) }],
  ["a failure is its own adapter's", /a failure of their own adapter/, {
    tiers: (tiers) => {
      tiers.slots.on("slot.refused", ({ error }) => {
        for (let id = 1; id <= 40; id++) tiers.slots.send({ type: "image.fail", adapterId: asAdapterId(id), error });
      });
      return tiers;
    },
  }],
];

describe("the simulation notices that a rule is broken", () => {
  test.each(MUTANTS)("%s", async (_, broken, mutant) => {
    const outcomes: string[] = [];
    for (let seed = 1; seed <= 60 && !outcomes.some((each) => broken.test(each)); seed++) {
      await simulateTiers(seed, 1000, mutant).catch((thrown: unknown) => outcomes.push(String(thrown)));
    }
    expect(outcomes.find((each) => broken.test(each)) ?? outcomes.join("\n")).toMatch(broken);
  });
});
