/** One test per wire: a fact of one actor becomes a command of another. */
import { describe, expect, test } from "bun:test";
import type { StagedAdapter } from "../../src/actors/adapter-loader/adapter-loader.events.ts";
import { startSystem, type SystemFact } from "../../src/actors/system.ts";
import { AdapterError, CapacityError } from "../../src/core/errors.ts";
import { asAdapterId, asRequestId, type AdapterId } from "../../src/core/ids.ts";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { Engine } from "../../src/engine/engine.ts";
import { HostLru } from "../../src/lora/host-lru.ts";
import { SlotPool } from "../../src/lora/slot-pool.ts";
import { createSequence } from "../../src/schedule/sequence.ts";
import { FakeBackend } from "../helpers/fake-backend.ts";
import { weightsOf } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { tableWith } from "../helpers/schedule.ts";
import { VirtualTime } from "../simulation/virtual-time.ts";

/** A system with one slot, whose adapters are read when the test says so. */
function open() {
  const time = new VirtualTime();
  const backend = new FakeBackend({ numSlots: 1 });
  const table = tableWith();
  const fetches = new Map<AdapterId, PromiseWithResolvers<void>>();
  const elsewhere = new Set<AdapterId>();
  const reads = new Map<AdapterId, PromiseWithResolvers<StagedAdapter>>();
  const facts: SystemFact[] = [];
  const fatal: unknown[] = [];
  const clock = { ...time.clock };
  const system = startSystem({
    table,
    engine: new Engine(backend, clock),
    backend,
    pool: new SlotPool({ numSlots: 1, maxBytes: 1000, extents: new ExtentPool(100), extentBytes: 10 }),
    lru: new HostLru(1000),
    isElsewhere: (adapterId) => elsewhere.has(adapterId),
    fetchAdapter: async (adapterId) => {
      const fetch = Promise.withResolvers<void>();
      fetches.set(adapterId, fetch);
      await fetch.promise;
      elsewhere.delete(adapterId);
    },
    readAdapter: (adapterId) => {
      const read = Promise.withResolvers<StagedAdapter>();
      reads.set(adapterId, read);
      return read.promise;
    },
    maxImages: 2,
    maxLoads: 2,
    maxLoadAttempts: 1,
    loadBackoffMs: 1,
    loadTimeoutMs: 60_000,
    loadFailureMs: 1,
    clock,
    timers: time.timers,
    yieldTurn: time.yieldTurn,
    stepsAhead: 0,
    onStepTime: () => {},
    onFact: (fact) => void facts.push(fact),
    onState: () => undefined,
    onFatal: (error) => void fatal.push(error),
  });
  let arrival = 0;
  return {
    system,
    backend,
    table,
    clock,
    reads,
    fetches,
    elsewhere,
    fatal,
    turn: () => time.advance(1),
    heard: (type: SystemFact["type"]) => facts.filter((fact) => fact.type === type),
    /** `null` is the base model. */
    submit: (adapter: number | null, maxTokens = 2) =>
      system.submit(
        createSequence({
          id: asRequestId(`r${arrival}`),
          adapter: adapter === null ? null : asAdapterId(adapter),
          tenant: "",
          promptTokens: [1],
          sampling: samplingWith({ maxTokens }),
          output: {
            adjustments: () => [],
            accept: () =>
              --maxTokens > 0 ? null : { reason: "length", stopReason: null, error: null },
            finish: () => {},
          },
          arrival: arrival++,
          submittedMs: 0,
          deadlineMs: Infinity,
        }),
      ),
    load: (adapter: number) => {
      const { report } = weightsOf("", 10);
      const image = { digest: `d${adapter}`, numBytes: 10 };
      reads.get(asAdapterId(adapter))!.resolve({ image, report });
    },
  };
}

/** Runs until the adapter's first request has ended. */
async function serve(opened: ReturnType<typeof open>, adapter: number): Promise<void> {
  opened.submit(adapter);
  opened.load(adapter);
  for (let i = 0; i < 10; i++) await opened.turn();
}

describe("wires", () => {
  test("scheduler adapter.wanted → slots, slots image.wanted → cache, cache image.missed → loader", () => {
    const opened = open();
    opened.submit(1);
    expect(opened.heard("adapter.wanted")).toHaveLength(1);
    expect(opened.heard("image.wanted")).toHaveLength(1);
    expect(opened.heard("image.missed")).toHaveLength(1);
    expect([...opened.reads.keys()]).toEqual([asAdapterId(1)]);
  });

  test("loader adapter.loaded → cache and slots, slots slot.granted → scheduler", async () => {
    const opened = open();
    await serve(opened, 1);
    expect(opened.heard("image.kept")).toHaveLength(1);
    expect(opened.backend.attached.get(0 as never)?.digest).toBe("d1");
    expect(opened.heard("slot.granted")).toHaveLength(1);
    expect(opened.heard("request.ended")).toHaveLength(1);
  });

  test("scheduler adapter.released → slots", async () => {
    const opened = open();
    await serve(opened, 1);
    await serve(opened, 2);
    expect(opened.heard("slot.evicted")).toMatchObject([{ adapterId: 1 }]);
    expect(opened.heard("request.ended")).toHaveLength(2);
  });

  test("cache image.found → slots", async () => {
    const opened = open();
    await serve(opened, 1);
    await serve(opened, 2);
    opened.reads.clear();
    opened.submit(1);
    for (let i = 0; i < 10; i++) await opened.turn();
    expect(opened.reads.size).toBe(0);
    expect(opened.heard("image.found")).toHaveLength(1);
    expect(opened.heard("request.ended")).toHaveLength(3);
  });

  test("slots slot.blocked → scheduler", async () => {
    const opened = open();
    opened.submit(1, 1000);
    opened.load(1);
    for (let i = 0; i < 5; i++) await opened.turn();
    opened.submit(2);
    opened.load(2);
    await opened.turn();
    expect(opened.table.groups.get(asAdapterId(2))?.lease).toBe("blocked");
  });

  test("scheduler adapter.wanted of what is elsewhere → fetcher, fetcher fetch.done → slots", async () => {
    const opened = open();
    opened.elsewhere.add(asAdapterId(1));
    opened.submit(1);
    await opened.turn();
    expect({ fetched: [...opened.fetches.keys()], read: [...opened.reads.keys()] }).toEqual({ fetched: [asAdapterId(1)], read: [] });
    opened.fetches.get(asAdapterId(1))!.resolve();
    await opened.turn();
    opened.load(1);
    for (let i = 0; i < 10; i++) await opened.turn();
    expect(opened.heard("request.ended")).toMatchObject([{ finish: { reason: "length" } }]);
    // Here by now, it goes to the slots at once.
    await serve(opened, 2);
    await serve(opened, 1);
    expect([opened.heard("adapter.fetching").length, opened.heard("request.ended").length]).toEqual([1, 3]);
  });

  test("scheduler adapter.released → fetcher, and no lease is left behind where the files come that moment", async () => {
    const opened = open();
    opened.elsewhere.add(asAdapterId(1));
    opened.submit(1);
    await opened.turn();
    opened.elsewhere.delete(asAdapterId(1));
    opened.fetches.get(asAdapterId(1))!.resolve();
    opened.system.cancel(asRequestId("r0"));
    for (let i = 0; i < 5; i++) await opened.turn();
    expect([opened.heard("adapter.released").length, opened.heard("fetch.done").length, opened.reads.size]).toEqual([1, 0, 0]);
    expect(opened.fatal).toEqual([]);
  });

  test("fetcher fetch.refused → scheduler", async () => {
    const opened = open();
    opened.elsewhere.add(asAdapterId(1));
    opened.submit(1);
    opened.fetches.get(asAdapterId(1))!.reject(new CapacityError("source_unavailable", "not now"));
    await opened.turn();
    expect(opened.heard("request.ended")).toMatchObject([{ finish: { reason: "error", error: { errorCode: "source_unavailable" } } }]);
  });

  test("a load of what is elsewhere is fetched, then read; forgetting it stops that", async () => {
    const opened = open();
    for (const id of [1, 2]) {
      opened.elsewhere.add(asAdapterId(id));
      opened.system.load(asAdapterId(id));
    }
    opened.system.forget(asAdapterId(2));
    for (const fetch of opened.fetches.values()) fetch.resolve();
    await opened.turn();
    expect([...opened.reads.keys()]).toEqual([asAdapterId(1)]);
  });

  test("loader adapter.failed → slots, slots slot.refused → scheduler", async () => {
    const opened = open();
    opened.submit(1);
    opened.reads.get(asAdapterId(1))!.reject(new AdapterError("adapter_invalid", "bad"));
    await opened.turn();
    expect(opened.heard("slot.refused")).toHaveLength(1);
    expect(opened.heard("request.ended")).toMatchObject([
      { finish: { reason: "error", error: { errorCode: "adapter_invalid" } } },
    ]);
  });

  test("an actor that dies is heard of", async () => {
    const opened = open();
    const bug = new Error("a bug");
    opened.clock.nowMs = () => {
      throw bug;
    };
    opened.submit(null);
    await opened.turn();
    expect(opened.fatal).toEqual([bug]);
  });
});
