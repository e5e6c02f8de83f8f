import { describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/core/clock.ts";
import { AdapterError } from "../../src/core/errors.ts";
import type { AdapterId } from "../../src/core/ids.ts";
import type { AdapterLoad } from "../../src/runtime/runtime-parts.ts";
import { deviceLost, nextToken } from "../helpers/fake-backend.ts";
import { letters } from "../helpers/letters.ts";
import { collect, fakeModel, openBench, requestWith, weightsOf } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { until } from "../helpers/until.ts";
import { VirtualTime } from "../simulation/virtual-time.ts";

/** What a request must give, whatever runs beside it. */
function expectedTokens(digest: string, seed: bigint, prompt: readonly number[], count: number) {
  const all = [...prompt];
  for (let i = 0; i < count; i++) all.push(nextToken(digest, seed, i, all, 1000));
  return all.slice(prompt.length);
}

const idle = { waitingRequests: 0, runningRequests: 0, usedPages: 0 };

describe("what became of a load", () => {
  test("is told with digest, report and device bytes, or with the error", async () => {
    const loads: AdapterLoad[] = [];
    const broken = new AdapterError("adapter_invalid", "no");
    const { runtime } = openBench({
      readAdapter: ({ name }) => (name === "a2" ? Promise.reject(broken) : Promise.resolve(weightsOf(`digest of ${name}`, 100))),
      onAdapterLoad: (load) => loads.push(load),
    });
    const [good, bad] = [await runtime.resolveAdapter({ name: "a1" }), await runtime.resolveAdapter({ name: "a2" })];
    expect(runtime.adapterDigest(good)).toBeNull();
    for (const adapter of [good, bad]) await collect(runtime.generate(requestWith([1], { adapter, maxTokens: 1 })));
    expect(loads).toEqual([
      { name: "a1", digest: "digest of a1", origin: null, report: weightsOf("", 100).report, deviceBytes: expect.any(Number), error: null },
      { name: "a2", error: broken },
    ]);
    expect(runtime.adapterDigest(good)).toBe("digest of a1");
    expect(runtime.adapterDigest(bad)).toBeNull();
    await runtime.close();
  });
});

describe("generate", () => {
  test("gives the model's tokens, then one finish with usage and timing", async () => {
    const { runtime } = openBench();
    const { ids, finish } = await collect(runtime.generate(requestWith([1, 2, 3], { seed: 5n })));
    expect(ids).toEqual(expectedTokens("base", 5n, [1, 2, 3], 8));
    expect(finish).toMatchObject({
      reason: "length",
      stopReason: null,
      error: null,
      usage: { promptTokens: 3, completionTokens: 8 },
    });
    for (const ms of Object.values(finish.timing)) expect(ms).toBeGreaterThanOrEqual(0);
    expect(runtime.stats()).toMatchObject({
      ...idle,
      steps: 8,
      promptTokens: 3,
      generatedTokens: 8,
      finished: { length: 1 },
    });
    await runtime.close();
  });

  test("asks the device for the next step before anybody reads the tokens of the last one", async () => {
    const { runtime, backend } = openBench({}, { beforeResult: () => Bun.sleep(1) });
    let numAsked = 0;
    let numRead = 0;
    backend.onStep = () => void numAsked++;
    for await (const { finish } of runtime.generate(requestWith([1], { maxTokens: 20 }))) {
      numRead++;
      // The last token leaves with the finish, after which there is no step.
      expect(numAsked).toBeGreaterThanOrEqual(finish === null ? numRead + 1 : numRead);
    }
    expect(numRead).toBe(20);
    await runtime.close();
  });

  test("mixes the base model and more adapters than slots, and each request gives what it gives alone", async () => {
    const { runtime, backend } = openBench();
    const wanted: { digest: string; seed: bigint; prompt: number[] }[] = [];
    const generations = await Promise.all(
      Array.from({ length: 40 }, async (_, index) => {
        const name = index % 5 === 0 ? null : `a${index % 5}`;
        const prompt = Array.from(
          { length: 1 + (index % 13) },
          (_unused, i) => (index * 7 + i) % 1000,
        );
        const seed = BigInt(index);
        wanted.push({ digest: name === null ? "base" : `digest of ${name}`, seed, prompt });
        const adapter = name === null ? null : await runtime.resolveAdapter({ name });
        return runtime.generate(requestWith(prompt, { seed, adapter }));
      }),
    );
    const results = await Promise.all(generations.map(collect));
    for (const [index, { ids, finish }] of results.entries()) {
      const { digest, seed, prompt } = wanted[index]!;
      expect(finish.reason).toBe("length");
      expect(ids).toEqual(expectedTokens(digest, seed, prompt, 8));
    }
    expect(runtime.stats()).toMatchObject(idle);
    expect(backend.maxSlotsInStep).toBe(2);
    await runtime.close();
    expect(backend.closed).toBe(true);
  });

  test("starts requests that come in the same turn in the same step", async () => {
    const { runtime, backend } = openBench();
    const generations = [1, 2, 3].map((token) => runtime.generate(requestWith([token])));
    await Promise.all(generations.map(collect));
    expect(backend.steps).toBe(8);
    await runtime.close();
  });

  test("gives the same tokens to a request that was preempted", async () => {
    const { runtime } = openBench({}, { numPages: 8 });
    const prompts = [
      [1, 2, 3, 4, 5],
      [6, 7, 8],
      [9, 10, 11, 12],
    ];
    const results = await Promise.all(
      prompts.map((prompt) => collect(runtime.generate(requestWith(prompt, { maxTokens: 20 })))),
    );
    expect(results.map(({ ids }) => ids)).toEqual(
      prompts.map((prompt) => expectedTokens("base", 0n, prompt, 20)),
    );
    expect(runtime.stats().preemptions).toBeGreaterThan(0);
    expect(runtime.stats()).toMatchObject(idle);
    await runtime.close();
  });

  test("turns tokens to text and ends at a stop string", async () => {
    const { runtime } = openBench({ model: fakeModel(128, letters) }, { vocabSize: 128 });
    const plain = await collect(runtime.generate(requestWith([65, 66], { maxTokens: 30 })));
    const stop = plain.text.slice(10, 13);
    const sampling = samplingWith({ maxTokens: 30, stop: [stop] });
    const stopped = await collect(runtime.generate({ ...requestWith([65, 66]), sampling }));
    expect(stopped.text).toBe(plain.text.slice(0, plain.text.indexOf(stop)));
    expect(stopped.finish).toMatchObject({ reason: "stop", stopReason: stop });
    await runtime.close();
  });

  test("ends one request whose logits are not finite, and no other", async () => {
    const { runtime } = openBench({}, { poisonedSeeds: new Set([13n]) });
    const [bad, good] = await Promise.all([
      collect(runtime.generate(requestWith([1], { seed: 13n }))),
      collect(runtime.generate(requestWith([1], { seed: 14n }))),
    ]);
    expect(bad.finish).toMatchObject({
      reason: "error",
      error: expect.objectContaining({ errorCode: "non_finite_logits" }),
    });
    expect(good.finish.reason).toBe("length");
    expect(runtime.failure).toBeNull();
    expect(runtime.stats()).toMatchObject(idle);
    await runtime.close();
  });
});

test("the event loop turns at every step, however fast the backend is", async () => {
  const { runtime, backend } = openBench();
  let numTurns = 0;
  let isOver = false;
  const turn = () => {
    numTurns++;
    if (!isOver) setImmediate(turn);
  };
  setImmediate(turn);
  await collect(runtime.generate(requestWith([1], { maxTokens: 100 })));
  isOver = true;
  expect(backend.steps).toBe(100);
  expect(numTurns).toBeGreaterThanOrEqual(50);
  await runtime.close();
});

describe("refusals before anything is kept", () => {
  test.each([
    ["an empty prompt", { promptTokens: [] }, "invalid_request"],
    ["a token outside the vocabulary", { promptTokens: [1, 1000] }, "invalid_request"],
    ["a negative token", { promptTokens: [-1] }, "invalid_request"],
    ["a fractional token", { promptTokens: [0.5] }, "invalid_request"],
    ["no output", { sampling: samplingWith({ maxTokens: 0 }) }, "invalid_request"],
    ["a timeout of nothing", { timeoutMs: 0 }, "invalid_request"],
    ["an unknown adapter", { adapter: 77 as AdapterId }, "adapter_not_found"],
    [
      "a prompt that fills the pages",
      { promptTokens: Array(256).fill(1) },
      "context_length_exceeded",
    ],
    [
      "more than the pages hold",
      { sampling: samplingWith({ maxTokens: 254 }) },
      "context_length_exceeded",
    ],
  ])("refuses %s", async (_, changes, errorCode) => {
    const { runtime } = openBench();
    const request = { ...requestWith([1, 2, 3]), ...changes };
    expect(() => runtime.generate(request)).toThrow(expect.objectContaining({ errorCode }));
    expect(runtime.stats()).toMatchObject({ ...idle, refused: { [errorCode]: 1 } });
    await runtime.close();
  });

  test("refuses adapters where the backend has no slots", async () => {
    const { runtime } = openBench({}, { numSlots: 0 });
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    expect(() => runtime.generate(requestWith([1], { adapter }))).toThrow(
      expect.objectContaining({ errorCode: "adapter_unsupported" }),
    );
    await runtime.close();
  });

  test("refuses what the queue cannot take, and serves what it holds", async () => {
    const { runtime } = openBench({ options: { maxWaitingRequests: 2 } });
    const taken = [1, 2].map((token) => collect(runtime.generate(requestWith([token]))));
    expect(() => runtime.generate(requestWith([3]))).toThrow(
      expect.objectContaining({ errorCode: "queue_full" }),
    );
    expect((await Promise.all(taken)).map(({ finish }) => finish.reason)).toEqual([
      "length",
      "length",
    ]);
    await runtime.close();
  });
});

describe("cancellation", () => {
  test("before the first step, during a step, and by leaving the stream", async () => {
    const { runtime, backend } = openBench();
    const early = runtime.generate(requestWith([1]));
    early.cancel();
    early.cancel();
    expect((await collect(early)).finish).toMatchObject({
      reason: "cancelled",
      usage: { completionTokens: 0 },
    });

    const running = runtime.generate(requestWith([2], { maxTokens: 200 }));
    backend.onStep = () => running.cancel();
    expect((await collect(running)).finish.reason).toBe("cancelled");
    await until(() => runtime.stats().usedPages === 0);
    expect(runtime.stats()).toMatchObject(idle);
    backend.onStep = () => {};

    const left = runtime.generate(requestWith([3], { maxTokens: 200 }));
    for await (const { tokens } of left) {
      if (tokens.length > 0) break;
    }
    const after = await collect(runtime.generate(requestWith([4])));
    expect(after.finish.reason).toBe("length");
    expect(runtime.stats()).toMatchObject({ ...idle, finished: { cancelled: 3, length: 1 } });
    await runtime.close();
  });

  test("of a request that waits for its adapter", async () => {
    const reading = Promise.withResolvers<ReturnType<typeof weightsOf>>();
    const { runtime } = openBench({ readAdapter: () => reading.promise });
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    const waiting = runtime.generate(requestWith([1], { adapter }));
    const base = await collect(runtime.generate(requestWith([2])));
    expect(base.finish.reason).toBe("length");
    waiting.cancel();
    expect((await collect(waiting)).finish.reason).toBe("cancelled");
    reading.resolve(weightsOf("digest of a1", 100));
    await runtime.close();
  });

  test("of a request whose reader does not read", async () => {
    const { runtime } = openBench({ options: { maxUnreadTokens: 5 } });
    const unread = runtime.generate(requestWith([1], { maxTokens: 200 }));
    const other = await collect(runtime.generate(requestWith([2], { maxTokens: 20 })));
    expect(other.finish.reason).toBe("length");
    const { ids, finish } = await collect(unread);
    expect(finish.reason).toBe("cancelled");
    expect(ids).toEqual(expectedTokens("base", 0n, [1], 6));
    await runtime.close();
  });
});

describe("adapters", () => {
  test("are read on first use, once, while others run", async () => {
    let numReads = 0;
    const reading = Promise.withResolvers<void>();
    const { runtime } = openBench({
      readAdapter: async ({ name }) => {
        numReads++;
        await reading.promise;
        return weightsOf(`digest of ${name}`, 100);
      },
    });
    expect(runtime.adapters()[0]).toMatchObject({ name: "a1", state: "registered", digest: null });
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    const both = [1, 2].map((token) =>
      collect(runtime.generate(requestWith([token], { adapter }))),
    );
    await collect(runtime.generate(requestWith([9])));
    expect(runtime.adapters()[0]).toMatchObject({ state: "loading" });
    reading.resolve();
    const [first] = await Promise.all(both);
    expect(first!.ids).toEqual(expectedTokens("digest of a1", 0n, [1], 8));
    expect(numReads).toBe(1);
    expect(runtime.adapters()[0]).toEqual({
      id: adapter,
      name: "a1",
      path: "/adapters/a1",
      origin: null,
      download: null,
      state: "device",
      tier: "device",
      isPinned: false,
      digest: "digest of a1",
      rank: 8,
      numModules: 1,
      invocation: null,
      numBytes: 100,
      numLive: 0,
      numRequests: 2,
      numRunning: 0,
      numWaiting: 0,
      promptTokens: 2,
      generatedTokens: 16,
      numLoads: 1,
      lastError: null,
      created: expect.any(Number),
      lastUsed: expect.any(Number),
    });
    await runtime.close();
  });

  test("that fail end their own requests with the reason, and are not read again at once", async () => {
    let numReads = 0;
    const { runtime } = openBench({
      readAdapter: ({ name }) => {
        if (name === "a1") {
          numReads++;
          return Promise.reject(new AdapterError("adapter_invalid", "lora_A is missing"));
        }
        return Promise.resolve(weightsOf(`digest of ${name}`, 100));
      },
    });
    const bad = await runtime.resolveAdapter({ name: "a1" });
    const good = await runtime.resolveAdapter({ name: "a2" });
    const [first, other, second] = await Promise.all([
      collect(runtime.generate(requestWith([1], { adapter: bad }))),
      collect(runtime.generate(requestWith([1], { adapter: good }))),
      collect(runtime.generate(requestWith([2], { adapter: bad }))),
    ]);
    for (const { finish } of [first, second]) {
      expect(finish).toMatchObject({
        reason: "error",
        error: { errorCode: "adapter_invalid", message: "lora_A is missing" },
      });
    }
    expect(other.finish.reason).toBe("length");
    const third = await collect(runtime.generate(requestWith([3], { adapter: bad })));
    expect(third.finish.reason).toBe("error");
    expect(numReads).toBe(1);
    expect(runtime.adapters()[0]).toMatchObject({
      state: "failed",
      lastError: "lora_A is missing",
    });
    await runtime.close();
  });

  test("larger than the device's memory are refused by size", async () => {
    const { runtime } = openBench({ readAdapter: () => Promise.resolve(weightsOf("big", 1001)), options: { adapterBytes: 1000 } });
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    const { finish } = await collect(runtime.generate(requestWith([1], { adapter })));
    expect(finish.error).toMatchObject({
      errorCode: "adapter_too_large",
      message: expect.stringContaining("1010 bytes on the device, which has 1000"),
    });
    await runtime.close();
  });

  test("that share the device's memory take turns when their slots would hold them all", async () => {
    const { runtime, backend } = openBench(
      { readAdapter: ({ name }) => Promise.resolve(weightsOf(`digest of ${name}`, 600)), options: { adapterBytes: 1000 } },
      { numSlots: 4 },
    );
    const results = await Promise.all(
      ["a1", "a2", "a3"].map(async (name) => {
        const adapter = await runtime.resolveAdapter({ name });
        return collect(runtime.generate(requestWith([1], { adapter })));
      }),
    );
    expect(results.map(({ ids }) => ids)).toEqual(
      [1, 2, 3].map((n) => expectedTokens(`digest of a${n}`, 0n, [1], 8)),
    );
    expect(backend.maxSlotsInStep).toBe(1);
    expect(runtime.stats()).toMatchObject({ adapterLoads: 3, adapterEvictions: 2 });
    await runtime.close();
  });

  test("come back from host memory without being read, and are read again when it is too small", async () => {
    for (const [hostCacheBytes, numReads] of [
      [1000, 3],
      [50, 4],
    ] as const) {
      const { runtime } = openBench({ options: { hostCacheBytes } }, { numSlots: 1 });
      for (const name of ["a1", "a2", "a3", "a1"]) {
        const adapter = await runtime.resolveAdapter({ name });
        await collect(runtime.generate(requestWith([1], { adapter })));
      }
      expect(runtime.stats()).toMatchObject({
        adapterLoads: numReads,
        adapterEvictions: 3,
        hostCacheBytes: hostCacheBytes === 1000 ? 300 : 0,
      });
      await runtime.close();
    }
  });
});

describe("resolveAdapter", () => {
  test("knows names, and paths under the allowed roots", async () => {
    const root = await mkdtemp(join(await realpath(tmpdir()), "lorikeet-"));
    for (const name of ["x", "y", "z"]) await mkdir(join(root, name));
    const { runtime } = openBench({ options: { adapterRoots: [root] } });
    const a1 = await runtime.resolveAdapter({ name: "a1" });
    expect(await runtime.resolveAdapter({ name: "a1", intId: 7 })).toBe(a1);
    expect(await runtime.resolveAdapter({ name: "a1", path: "/adapters/a1" })).toBe(a1);
    const fresh = await runtime.resolveAdapter({ name: "fresh", path: join(root, "x"), intId: 8 });
    expect(await runtime.resolveAdapter({ name: "fresh" })).toBe(fresh);
    expect(await runtime.resolveAdapter({ name: "fresh", path: join(root, "x") })).toBe(fresh);

    const refused = [
      [{ name: "nobody" }, "adapter_not_found"],
      [{ name: "other", path: "/etc" }, "forbidden_path"],
      [{ name: "other", path: join(root, "missing") }, "forbidden_path"],
      [{ name: "a1", path: join(root, "y") }, "invalid_request"],
      [{ name: "a1", intId: 8 }, "invalid_request"],
      [{ name: "a2", intId: -1 }, "invalid_request"],
      [{ name: "../up", path: join(root, "z") }, "invalid_request"],
    ] as const;
    for (const [reference, errorCode] of refused) {
      await expect(runtime.resolveAdapter(reference)).rejects.toMatchObject({ errorCode });
    }
    await expect(runtime.resolveAdapter({ name: "a1", intId: 8 })).rejects.toThrow(
      "lora_int_id 8 stands for adapter fresh and cannot stand for a1 as well",
    );
    await runtime.close();
    await rm(root, { recursive: true });
  });

  test("refuses every path where no root is allowed", async () => {
    const { runtime } = openBench();
    await expect(runtime.resolveAdapter({ name: "x", path: "/any" })).rejects.toMatchObject({
      errorCode: "forbidden_path",
    });
    await runtime.close();
  });
});

describe("the end", () => {
  test("a lost device ends every request with the error, and refuses from then on", async () => {
    const failures: string[] = [];
    const { runtime, backend } = openBench({
      onFailure: ({ errorCode }) => void failures.push(errorCode),
    });
    const running = [1, 2].map((token) => collect(runtime.generate(requestWith([token]))));
    backend.failNext = deviceLost();
    for (const { finish } of await Promise.all(running)) {
      expect(finish).toMatchObject({ reason: "error", error: { errorCode: "backend_failed" } });
    }
    expect(runtime.stats()).toMatchObject(idle);
    expect(runtime.failure?.errorCode).toBe("backend_failed");
    expect(() => runtime.generate(requestWith([1]))).toThrow(
      expect.objectContaining({ errorCode: "backend_failed" }),
    );
    expect(failures).toEqual(["backend_failed"]);
    await runtime.close();
    expect(backend.closed).toBe(true);
  });

  test("a bug in an actor ends every request with an error instead of leaving it without an end", async () => {
    const clock = { ...systemClock };
    const { runtime } = openBench({ clock });
    const running = collect(runtime.generate(requestWith([1], { maxTokens: 100 })));
    clock.nowMs = () => {
      clock.nowMs = () => systemClock.nowMs();
      throw new Error("a bug");
    };
    expect((await running).finish).toMatchObject({
      reason: "error",
      error: { errorCode: "invariant_violated", message: "an internal error occurred" },
    });
    expect(runtime.failure?.errorCode).toBe("invariant_violated");
    await runtime.close();
  });

  test("close lets running requests end and refuses new ones", async () => {
    const { runtime, backend } = openBench();
    const running = collect(runtime.generate(requestWith([1], { maxTokens: 50 })));
    const closing = runtime.close();
    expect(() => runtime.generate(requestWith([2]))).toThrow(
      expect.objectContaining({ errorCode: "shutting_down" }),
    );
    expect((await running).finish.reason).toBe("length");
    await closing;
    await runtime.close();
    expect(backend.closed).toBe(true);
  });

  test("close ends what is left after its timeout with shutdown", async () => {
    const { runtime } = openBench({ readAdapter: () => new Promise(() => {}) });
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    const endless = collect(runtime.generate(requestWith([1], { maxTokens: 250 })));
    const closing = runtime.close(0);
    expect((await endless).finish.reason).toBe("shutdown");
    await closing;
    expect(adapter).toBe(1 as AdapterId);
  });

  test("close does not wait for ever for a backend that hangs in a step", async () => {
    const time = new VirtualTime();
    const { runtime } = openBench(
      { timers: time.timers, clock: time.clock, yieldTurn: time.yieldTurn },
      { beforeResult: () => new Promise(() => {}) },
    );
    const hanging = collect(runtime.generate(requestWith([1])));
    await time.advance(1);
    const closing = runtime.close(1000).catch((error: unknown) => error);
    await time.advance(1000);
    await time.advance(5000);
    expect((await hanging).finish.reason).toBe("shutdown");
    await time.advance(5000);
    // The fake backend objects to being closed during a step; what matters is that it was.
    expect(String(await closing)).toContain("no close during a step");
  });

  test("a request over its time ends with timeout, running or waiting", async () => {
    const { runtime } = openBench(
      { readAdapter: () => new Promise(() => {}) },
      { beforeResult: () => Bun.sleep(2) },
    );
    const adapter = await runtime.resolveAdapter({ name: "a1" });
    const [running, waiting] = await Promise.all([
      collect(runtime.generate(requestWith([1], { maxTokens: 250, timeoutMs: 20 }))),
      collect(runtime.generate(requestWith([1], { adapter, timeoutMs: 20 }))),
    ]);
    expect(running.finish.reason).toBe("timeout");
    expect(running.ids.length).toBe(running.finish.usage.completionTokens);
    expect(waiting.finish.reason).toBe("timeout");
    expect(runtime.stats()).toMatchObject(idle);
  });
});
