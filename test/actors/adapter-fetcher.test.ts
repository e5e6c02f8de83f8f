import { describe, expect, test } from "bun:test";
import { createActor } from "xstate";
import type { AdapterFetcherFact } from "../../src/actors/adapter-fetcher/adapter-fetcher.events.ts";
import { adapterFetcherMachine } from "../../src/actors/adapter-fetcher/adapter-fetcher.machine.ts";
import { CapacityError } from "../../src/core/errors.ts";
import { asAdapterId, type AdapterId } from "../../src/core/ids.ts";

const A = asAdapterId(1);
const B = asAdapterId(2);
const busy = new CapacityError("source_unavailable", "not now");

/** A fetcher whose downloads end when the test says so. */
function open() {
  let nowMs = 0;
  const fetches: { readonly adapterId: AdapterId; readonly signal: AbortSignal; readonly settle: PromiseWithResolvers<void> }[] = [];
  const facts: string[] = [];
  const actor = createActor(adapterFetcherMachine, {
    input: {
      fetch: (adapterId, signal) => {
        const settle = Promise.withResolvers<void>();
        fetches.push({ adapterId, signal, settle });
        return settle.promise;
      },
      clock: { nowMs: () => nowMs, unixSeconds: () => 0 },
      failureMs: 1000,
    },
  });
  actor.on("*", (fact: AdapterFetcherFact) => {
    const lease = "leaseNumber" in fact ? ` for ${fact.leaseNumber}` : "";
    facts.push(`${fact.type} ${fact.adapterId}${lease}${"error" in fact ? `: ${fact.error.message}` : ""}`);
  });
  actor.start();
  return {
    actor,
    fetches,
    wait: (ms: number) => void (nowMs += ms),
    want: (adapterId: AdapterId, leaseNumber: number | null) => actor.send({ type: "fetch.want", adapterId, leaseNumber }),
    finish: async (adapterId: AdapterId, error?: unknown) => {
      const { settle } = fetches.findLast((each) => each.adapterId === adapterId)!;
      if (error === undefined) settle.resolve();
      else settle.reject(error);
      await Promise.resolve();
      await Promise.resolve();
    },
    heard: () => facts.splice(0),
  };
}

describe("adapter fetcher", () => {
  test("fetches an adapter once for all who want it, and tells each", async () => {
    const fetcher = open();
    fetcher.want(A, 7);
    fetcher.want(A, null);
    fetcher.want(B, 8);
    await fetcher.finish(A);
    expect(fetcher.heard()).toEqual(["adapter.fetching 1", "adapter.fetching 2", "adapter.fetched 1", "fetch.done 1 for 7", "fetch.done 1 for null"]);
    expect(Object.keys(fetcher.actor.getSnapshot().children)).toEqual(["fetch-2"]);
  });

  test("tells a lease that was given back nothing, and goes on for whoever comes next", async () => {
    const fetcher = open();
    fetcher.want(A, 7);
    fetcher.actor.send({ type: "fetch.release", adapterId: A, leaseNumber: 7 });
    expect(fetcher.fetches[0]!.signal.aborted).toBe(false);
    fetcher.want(A, 9);
    await fetcher.finish(A);
    expect(fetcher.heard()).toEqual(["adapter.fetching 1", "adapter.fetched 1", "fetch.done 1 for 9"]);
  });

  test("refuses for a while what failed, without asking again", async () => {
    const fetcher = open();
    fetcher.want(A, 7);
    fetcher.want(A, null);
    await fetcher.finish(A, busy);
    expect(fetcher.heard()).toEqual(["adapter.fetching 1", "adapter.failed 1: not now", "fetch.refused 1 for 7: not now"]);
    fetcher.wait(999);
    fetcher.want(A, 8);
    fetcher.want(A, null);
    expect(fetcher.heard()).toEqual(["adapter.failed 1: not now", "fetch.refused 1 for 8: not now", "adapter.failed 1: not now"]);
    expect(fetcher.fetches.length).toBe(1);
    fetcher.wait(1);
    fetcher.want(A, 9);
    await fetcher.finish(A);
    expect(fetcher.heard()).toEqual(["adapter.fetching 1", "adapter.fetched 1", "fetch.done 1 for 9"]);
  });

  test("stops what is forgotten, and its failure with it", async () => {
    const fetcher = open();
    fetcher.want(A, null);
    fetcher.actor.send({ type: "fetch.forget", adapterId: A });
    expect(fetcher.fetches[0]!.signal.aborted).toBe(true);
    await fetcher.finish(A, busy);
    expect(fetcher.heard()).toEqual(["adapter.fetching 1"]);
    fetcher.want(B, 3);
    await fetcher.finish(B, busy);
    fetcher.actor.send({ type: "fetch.forget", adapterId: B });
    fetcher.want(B, 4);
    expect(fetcher.fetches.length).toBe(3);
  });

  test("survives anything that is thrown, and ends all downloads with itself", async () => {
    const fetcher = open();
    fetcher.want(A, 1);
    await fetcher.finish(A, "not even an error");
    expect(fetcher.heard()).toEqual(["adapter.fetching 1", "adapter.failed 1: an internal error occurred", "fetch.refused 1 for 1: an internal error occurred"]);
    fetcher.want(B, 2);
    fetcher.actor.stop();
    expect(fetcher.fetches[1]!.signal.aborted).toBe(true);
  });
});
