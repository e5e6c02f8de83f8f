import { describe, expect, test } from "bun:test";
import { createActor, SimulatedClock } from "xstate";
import type {
  AdapterLoaderFact,
  StagedAdapter,
} from "../../src/actors/adapter-loader/adapter-loader.events.ts";
import { adapterLoaderMachine } from "../../src/actors/adapter-loader/adapter-loader.machine.ts";
import { AdapterError, toLorikeetError } from "../../src/core/errors.ts";
import { asAdapterId, type AdapterId } from "../../src/core/ids.ts";
import { weightsOf } from "../helpers/runtime.ts";

const A = asAdapterId(1);
const B = asAdapterId(2);
const C = asAdapterId(3);

const stagedOf = (adapterId: AdapterId): StagedAdapter => ({
  image: { digest: `${adapterId}`, numBytes: 10 },
  report: weightsOf("", 10).report,
});

const busy = (code: string) => Object.assign(new Error("/secret/path failed"), { code });

/** A loader whose reads end when the test says so. */
function open(changes: { maxLoads?: number; maxAttempts?: number } = {}) {
  const clock = new SimulatedClock();
  const reads: { adapterId: AdapterId; settle: PromiseWithResolvers<StagedAdapter> }[] = [];
  const facts: string[] = [];
  const actor = createActor(adapterLoaderMachine, {
    clock,
    input: {
      read: (adapterId) => {
        const settle = Promise.withResolvers<StagedAdapter>();
        reads.push({ adapterId, settle });
        return settle.promise;
      },
      clock: { nowMs: () => clock.now(), unixSeconds: () => 0 },
      maxLoads: changes.maxLoads ?? 2,
      maxAttempts: changes.maxAttempts ?? 3,
      backoffMs: 100,
      timeoutMs: 60_000,
      failureMs: 1000,
    },
  });
  actor.on("*", (fact: AdapterLoaderFact) => {
    const error = fact.type === "adapter.failed" ? `: ${fact.error.message}` : "";
    facts.push(`${fact.type} ${fact.adapterId}${error}`);
  });
  actor.start();
  return {
    actor,
    clock,
    numReads: () => reads.length,
    load: (adapterId: AdapterId) => actor.send({ type: "adapter.load", adapterId }),
    finish: async (adapterId: AdapterId, error?: unknown) => {
      const { settle } = reads.findLast((read) => read.adapterId === adapterId)!;
      if (error === undefined) settle.resolve(stagedOf(adapterId));
      else settle.reject(error);
      await Bun.sleep(0);
    },
    heard: () => facts.splice(0),
  };
}

describe("adapter loader", () => {
  test("reads an adapter and tells", async () => {
    const loader = open();
    loader.load(A);
    expect(loader.heard()).toEqual(["adapter.reading 1"]);
    await loader.finish(A);
    expect(loader.heard()).toEqual(["adapter.loaded 1"]);
  });

  test("reads an adapter once for all who want it at the same time", async () => {
    const loader = open();
    loader.load(A);
    loader.load(A);
    expect(loader.numReads()).toBe(1);
    await loader.finish(A);
    expect(loader.heard()).toEqual(["adapter.reading 1", "adapter.loaded 1"]);
    loader.load(A);
    expect(loader.numReads()).toBe(2);
  });

  test("reads a few at once, the others in order", async () => {
    const loader = open({ maxLoads: 2 });
    for (const adapter of [A, B, C]) loader.load(adapter);
    expect(loader.heard()).toEqual(["adapter.reading 1", "adapter.reading 2"]);
    await loader.finish(B);
    expect(loader.heard()).toEqual(["adapter.loaded 2", "adapter.reading 3"]);
  });

  test("tries again after failing I/O, each time after twice the wait", async () => {
    const loader = open();
    loader.load(A);
    await loader.finish(A, busy("EMFILE"));
    loader.clock.increment(99);
    expect(loader.numReads()).toBe(1);
    loader.clock.increment(1);
    expect(loader.numReads()).toBe(2);
    await loader.finish(A, busy("EIO"));
    loader.clock.increment(199);
    expect(loader.numReads()).toBe(2);
    loader.clock.increment(1);
    expect(loader.numReads()).toBe(3);
    await loader.finish(A);
    expect(loader.heard()).toEqual(["adapter.reading 1", "adapter.loaded 1"]);
  });

  test("gives up after its attempts, and does not show the path", async () => {
    const loader = open({ maxAttempts: 2 });
    loader.load(A);
    await loader.finish(A, busy("EIO"));
    loader.clock.increment(100);
    await loader.finish(A, busy("EIO"));
    expect(loader.heard()).toEqual([
      "adapter.reading 1",
      "adapter.failed 1: the adapter's files could not be read: EIO in 2 attempts; try again later",
    ]);
  });

  test("does not try a bad file again, and refuses it for a while without reading", async () => {
    const loader = open();
    loader.load(A);
    await loader.finish(A, new AdapterError("adapter_invalid", "lora_A is missing"));
    loader.heard();
    loader.load(A);
    expect(loader.heard()).toEqual(["adapter.failed 1: lora_A is missing"]);
    expect(loader.numReads()).toBe(1);
    loader.clock.increment(1000);
    loader.load(A);
    expect(loader.numReads()).toBe(2);
    await loader.finish(A);
    expect(loader.heard()).toEqual(["adapter.reading 1", "adapter.loaded 1"]);
  });

  test("a load in backoff leaves its place to nobody, and others go on beside it", async () => {
    const loader = open({ maxLoads: 2 });
    loader.load(A);
    await loader.finish(A, busy("EIO"));
    loader.load(B);
    await loader.finish(B);
    expect(loader.heard()).toEqual(["adapter.reading 1", "adapter.reading 2", "adapter.loaded 2"]);
  });

  test("survives anything that a reader throws", async () => {
    const loader = open();
    loader.load(A);
    await loader.finish(A, "not even an error");
    loader.load(B);
    await loader.finish(B, toLorikeetError(new TypeError("bug")));
    expect(loader.heard().filter((fact) => fact.startsWith("adapter.failed"))).toEqual([
      "adapter.failed 1: the adapter's files could not be read; the server's log says why",
      "adapter.failed 2: an internal error occurred",
    ]);
    expect(loader.actor.getSnapshot().status).toBe("active");
    expect(Object.keys(loader.actor.getSnapshot().children)).toEqual([]);
  });
});
