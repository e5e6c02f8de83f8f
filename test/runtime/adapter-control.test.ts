import { describe, expect, test } from "bun:test";
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdapterError } from "../../src/core/errors.ts";
import type { LocalRuntimeInput } from "../../src/runtime/local-runtime.ts";
import { type FakeBackendOptions, nextToken } from "../helpers/fake-backend.ts";
import { collect, openBench, requestWith, weightsOf } from "../helpers/runtime.ts";
import { until } from "../helpers/until.ts";

const root = await realpath(await mkdtemp(join(tmpdir(), "lorikeet-control-")));
for (const name of ["one", "two", "bad", "large"]) await mkdir(join(root, name));
process.on("exit", () => void rm(root, { recursive: true, force: true }));

/** Adapters lie at `one`, `two`, `bad` and `large` under a root; the content of each is its path's last part. */
function open(input: Partial<LocalRuntimeInput> = {}, backendOptions: Partial<FakeBackendOptions> = {}) {
  const reads: string[] = [];
  const bench = openBench(
    {
      readAdapter: async ({ path }) => {
        const content = path.split("/").at(-1)!;
        reads.push(content);
        if (content === "bad") throw new AdapterError("adapter_invalid", "the adapter's file holds no tensors");
        return weightsOf(content, content === "large" ? 700 : 100);
      },
      ...input,
      options: { adapterRoots: [root], adapters: [], ...input.options },
    },
    { numSlots: 3, ...backendOptions },
  );
  const { runtime } = bench;
  const ask = async (name: string, maxTokens = 8) =>
    runtime.generate(requestWith([1, 2], { adapter: await runtime.resolveAdapter({ name }), maxTokens }));
  return { ...bench, reads, ask };
}

/** Steps from the sixth on wait until they are let go, so that a request is under way for as long as a test likes. */
function heldSteps() {
  const held = Promise.withResolvers<void>();
  let numSteps = 0;
  return { letGo: held.resolve, beforeResult: () => (++numSteps > 5 ? held.promise : Promise.resolve()) };
}

function tokensOf(content: string, count = 8): number[] {
  const all = [1, 2];
  for (let i = 0; i < count; i++) all.push(nextToken(content, 0n, i, all, 1000));
  return all.slice(2);
}

const codeOf = (promise: Promise<unknown>): Promise<unknown> => promise.then(() => "none", (error: unknown) => (error as { errorCode?: unknown }).errorCode);

describe("loading an adapter", () => {
  test("reads it before it has its name, and its first request reads nothing", async () => {
    const { runtime, reads, ask } = open();
    const listing = await runtime.loadAdapter({ name: "sql", path: "one", intId: 7 });
    expect(listing).toMatchObject({ name: "sql", path: join(root, "one"), state: "host", tier: "host", digest: "one", rank: 8, numModules: 1, numBytes: 100, isPinned: false });
    expect((await collect(await ask("sql"))).ids).toEqual(tokensOf("one"));
    expect(reads).toEqual(["one"]);
    expect(runtime.adapters()).toMatchObject([{ name: "sql", state: "device", numRequests: 1, numLive: 0, numLoads: 1 }]);
    expect(await codeOf(runtime.resolveAdapter({ name: "other", intId: 7 }))).toBe("invalid_request");
    await runtime.close();
  });

  test("that is bad changes nothing and may be tried again at once", async () => {
    const { runtime, reads, ask } = open();
    await runtime.loadAdapter({ name: "sql", path: "one" });
    for (let i = 0; i < 2; i++) {
      expect(await codeOf(runtime.loadAdapter({ name: "new", path: "bad" }))).toBe("adapter_invalid");
      expect(await codeOf(runtime.loadAdapter({ name: "sql", path: "bad", replace: true }))).toBe("adapter_invalid");
    }
    expect(reads).toEqual(["one", "bad", "bad", "bad", "bad"]);
    expect(runtime.adapters()).toMatchObject([{ name: "sql", digest: "one", lastError: null }]);
    expect((await collect(await ask("sql"))).ids).toEqual(tokensOf("one"));
    await runtime.close();
  });

  test("takes a source where a path is none, and a path before a source", async () => {
    const asked: string[] = [];
    const { runtime, reads } = open({
      sourceOf: (text) => {
        asked.push(text);
        return text === "team/sql" ? "hf://team/sql" : null;
      },
      fetchAdapter: async (source) => ({ path: source === "hf://team/sql" ? "/cache/snapshots/two" : "bad", origin: "team/sql@c" }),
    });
    expect(await runtime.loadAdapter({ name: "sql", path: "team/sql" })).toMatchObject({ digest: "two", path: "/cache/snapshots/two", origin: "team/sql@c" });
    await runtime.loadAdapter({ name: "near", path: "one" });
    expect(await codeOf(runtime.loadAdapter({ name: "far", path: "hf://other/sql" }))).toBe("forbidden_path");
    expect({ asked, reads }).toEqual({ asked: ["team/sql", "hf://other/sql"], reads: ["two", "one"] });
    // By name and path of a plain request none is ever asked for.
    expect(await codeOf(runtime.resolveAdapter({ name: "plain", path: "team/sql" }))).toBe("forbidden_path");
    expect(asked.length).toBe(2);
    await runtime.close();
  });

  test("pins one that the operator put outside the roots, by reading it again from where it is", async () => {
    const listed = { name: "listed", path: "/elsewhere/two" };
    const { runtime, reads } = open({ options: { adapterRoots: [], adapters: [listed] } });
    expect(await codeOf(runtime.loadAdapter({ ...listed, name: "another" }))).toBe("forbidden_path");
    expect(await runtime.loadAdapter({ ...listed, replace: true, pin: true })).toMatchObject({ ...listed, isPinned: true, tier: "host" });
    expect(reads).toEqual(["two"]);
    await runtime.close();
  });

  test.each([
    ["a name that is taken", { name: "sql", path: "two" }, "adapter_exists"],
    ["a name that is none", { name: "../sql", path: "two" }, "invalid_request"],
    ["a path outside the roots", { name: "new", path: "/etc" }, "forbidden_path"],
    ["a path that is not there", { name: "new", path: "three" }, "forbidden_path"],
    ["a path out of the root", { name: "new", path: "../one" }, "forbidden_path"],
    ["another's number", { name: "new", path: "two", intId: 1 }, "invalid_request"],
  ])("refuses %s", async (_, asked, code) => {
    const { runtime } = open();
    await runtime.loadAdapter({ name: "sql", path: "one", intId: 1 });
    expect(await codeOf(runtime.loadAdapter(asked))).toBe(code);
    expect(runtime.adapters()).toHaveLength(1);
    await runtime.close();
  });

  test("refuses more names than are allowed, until one is unloaded", async () => {
    const { runtime } = open({ options: { maxAdapters: 1, adapterRoots: [root] } });
    await runtime.loadAdapter({ name: "a", path: "one" });
    expect(await codeOf(runtime.loadAdapter({ name: "b", path: "one" }))).toBe("queue_full");
    await runtime.loadAdapter({ name: "a", path: "two", replace: true });
    await runtime.unloadAdapter({ name: "a" });
    expect(await runtime.loadAdapter({ name: "b", path: "one" })).toMatchObject({ name: "b" });
    await runtime.close();
  });

  test("gives equal content to one image, whatever its names", async () => {
    const images = new Set<object>();
    const { runtime, backend, ask } = open();
    await runtime.loadAdapter({ name: "a", path: "one" });
    await runtime.loadAdapter({ name: "b", path: "one" });
    await Promise.all([ask("a").then(collect), ask("b").then(collect)]);
    for (const image of backend.attached.values()) images.add(image);
    expect([backend.attached.size, images.size]).toEqual([2, 1]);
    await runtime.close();
  });

  test.each(["its path is looked up", "its files are read"])("under way when the runtime closes fails, while %s", async (stage) => {
    const reading = Promise.withResolvers<void>();
    const { runtime } = open({ readAdapter: () => (reading.resolve(), Promise.withResolvers<never>().promise) });
    const loading = codeOf(runtime.loadAdapter({ name: "a", path: "one" }));
    if (stage === "its files are read") await reading.promise;
    void runtime.close(0);
    expect(await loading).toBe("shutting_down");
    expect(await codeOf(runtime.loadAdapter({ name: "b", path: "one" }))).toBe("shutting_down");
  });

  test("fails for one whose read hangs, and its place is free again", async () => {
    const { runtime } = open({
      readAdapter: ({ path }) => (path.endsWith("one") ? Promise.withResolvers<never>().promise : Promise.resolve(weightsOf("two", 100))),
      options: { adapterRoots: [root], maxLoads: 1, loadTimeoutMs: 5 },
    });
    const hanging = runtime.loadAdapter({ name: "a", path: "one" });
    const next = runtime.loadAdapter({ name: "b", path: "two" });
    await expect(hanging).rejects.toThrow("could not be read within 0.005 seconds");
    expect(await next).toMatchObject({ name: "b" });
  });
});

describe("replacing an adapter", () => {
  test("lets requests end on what they began with, gives new ones the new content, then frees the old", async () => {
    const { letGo, beforeResult } = heldSteps();
    const { runtime, backend, ask } = open({}, { beforeResult });
    await runtime.loadAdapter({ name: "sql", path: "one", intId: 3 });
    const old = await ask("sql", 200);
    const early = collect(old);
    while (backend.steps < 5) await Bun.sleep(0);
    await runtime.loadAdapter({ name: "sql", path: "two", intId: 3, replace: true });
    expect(runtime.adapters()).toMatchObject([
      { name: "sql", digest: "two", state: "host", numLive: 0 },
      { name: "sql", digest: "one", state: "draining", tier: "device", numLive: 1 },
    ]);
    letGo();
    expect((await collect(await ask("sql"))).ids).toEqual(tokensOf("two"));
    expect((await early).ids).toEqual(tokensOf("one", 200));
    await until(() => runtime.adapters().length === 1);
    // What is counted by name goes on, that of the old content's last requests with it.
    expect(runtime.adapters()).toMatchObject([{ name: "sql", digest: "two", numRequests: 2, promptTokens: 4, generatedTokens: 208, numLoads: 2 }]);
    expect([...backend.attached.values()].map(({ digest }) => digest)).toEqual(["two"]);
    expect(runtime.stats()).toMatchObject({ usedSlots: 1, hostCacheBytes: 100 });
    await runtime.close();
  });

  test("between a request's choice of adapter and its start gives it either content, and no error", async () => {
    const { runtime } = open();
    await runtime.loadAdapter({ name: "sql", path: "one" });
    const replacing = runtime.loadAdapter({ name: "sql", path: "two", replace: true });
    let isOver = false;
    void replacing.then(() => (isOver = true));
    const answers = [];
    while (!isOver) {
      const adapter = await runtime.resolveAdapter({ name: "sql" });
      await Promise.resolve();
      answers.push(collect(runtime.generate(requestWith([1, 2], { adapter }))));
      await Bun.sleep(0);
    }
    for (const { ids } of await Promise.all(answers)) expect([tokensOf("one"), tokensOf("two")]).toContainEqual([...ids]);
    await runtime.close();
  });
});

describe("unloading an adapter", () => {
  test("takes its name at once, and its memory when its last request has ended", async () => {
    const { letGo, beforeResult } = heldSteps();
    const { runtime, backend, ask } = open({}, { beforeResult });
    await runtime.loadAdapter({ name: "sql", path: "one" });
    const running = collect(await ask("sql", 100));
    while (backend.steps < 5) await Bun.sleep(0);
    expect(await runtime.unloadAdapter({ name: "sql" })).toMatchObject({ name: "sql", state: "draining", numLive: 1 });
    letGo();
    expect(await codeOf(runtime.resolveAdapter({ name: "sql" }))).toBe("adapter_not_found");
    expect(await codeOf(runtime.unloadAdapter({ name: "sql" }))).toBe("adapter_not_found");
    expect((await running).ids).toEqual(tokensOf("one", 100));
    await until(() => runtime.adapters().length === 0);
    expect([backend.attached.size, runtime.stats().usedSlots, runtime.stats().hostCacheBytes]).toEqual([0, 0, 0]);
    await runtime.loadAdapter({ name: "sql", path: "two" });
    expect((await collect(await ask("sql"))).ids).toEqual(tokensOf("two"));
    await runtime.close();
  });

  test("while it is read ends its requests on it, and stops at the wrong number", async () => {
    const { runtime, ask } = open({ options: { adapters: [{ name: "sql", path: "/x/one" }], adapterRoots: [root] } });
    await runtime.resolveAdapter({ name: "sql", intId: 4 });
    expect(await codeOf(runtime.unloadAdapter({ name: "other", intId: 4 }))).toBe("adapter_not_found");
    const waiting = collect(await ask("sql"));
    await runtime.unloadAdapter({ name: "sql", intId: 4 });
    expect((await waiting).ids).toEqual(tokensOf("one"));
    // The number is free for another name.
    expect(await runtime.loadAdapter({ name: "new", path: "two", intId: 4 })).toMatchObject({ name: "new" });
    await runtime.close();
  });
});

describe("a pinned adapter", () => {
  test("stays in host memory and, once used, on the device, until it is unloaded", async () => {
    const { runtime, ask, reads } = open({ options: { hostCacheBytes: 250, adapterRoots: [root] } });
    expect(await runtime.loadAdapter({ name: "pinned", path: "one", pin: true })).toMatchObject({ isPinned: true });
    const stateOf = (name: string) => runtime.adapters().find((each) => each.name === name)?.state;
    for (const name of ["a", "b", "c", "d"]) await runtime.loadAdapter({ name, path: "two" });
    expect(stateOf("pinned")).toBe("host");
    await collect(await ask("pinned"));
    for (const name of ["a", "b", "c", "d", "a"]) await collect(await ask(name));
    expect(stateOf("pinned")).toBe("device");
    expect(reads.filter((content) => content === "one")).toHaveLength(1);
    await runtime.unloadAdapter({ name: "pinned" });
    await until(() => runtime.adapters().length === 4);
    expect(runtime.adapters().map(({ name }) => name)).toEqual(["a", "b", "c", "d"]);
    await runtime.close();
  });

  test("leaves a slot and memory to the others", async () => {
    const { runtime, ask } = open({ options: { hostCacheBytes: 150, adapterRoots: [root] } });
    await runtime.loadAdapter({ name: "a", path: "one", pin: true });
    await expect(runtime.loadAdapter({ name: "b", path: "two", pin: true })).rejects.toThrow("200 bytes of the host cache (host_cache_size), which has 150");
    await Bun.sleep(1);
    expect(runtime.adapters()).toHaveLength(1);
    await runtime.loadAdapter({ name: "b", path: "two" });
    expect((await collect(await ask("b"))).ids).toEqual(tokensOf("two"));
    await runtime.close();

    const few = open({}, { numSlots: 2 });
    await few.runtime.loadAdapter({ name: "a", path: "one", pin: true });
    await expect(few.runtime.loadAdapter({ name: "b", path: "two", pin: true })).rejects.toThrow("of the 2 slots (max_loras) one stays for all others");
    await few.runtime.loadAdapter({ name: "a", path: "two", pin: true, replace: true });
    await few.runtime.unloadAdapter({ name: "a" });
    await until(() => few.runtime.adapters().length === 0);
    // Of two that are read at once one has the place, whichever is read first.
    const both = await Promise.allSettled([{ name: "c", path: "one" }, { name: "d", path: "two" }].map((each) => few.runtime.loadAdapter({ ...each, pin: true })));
    expect(both.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const [name, path] = both[0]!.status === "rejected" ? ["c", "one"] as const : ["d", "two"] as const;
    await few.runtime.loadAdapter({ name, path });
    expect((await collect(await few.ask(name))).ids).toEqual(tokensOf(path));
    await few.runtime.close();
  });

  test("may leave too little device memory for a large one, which is then told so at once", async () => {
    const { runtime, ask } = open({ options: { adapterBytes: 750 } }, { adapterBytes: 750 });
    await runtime.loadAdapter({ name: "pinned", path: "one", pin: true });
    await runtime.loadAdapter({ name: "large", path: "large" });
    await collect(await ask("pinned"));
    const { finish } = await collect(await ask("large"));
    expect(finish).toMatchObject({ reason: "error", error: { errorCode: "adapter_too_large" } });
    expect((await collect(await ask("pinned"))).ids).toEqual(tokensOf("one"));
    await runtime.close();
  });
});

test("10,000 names cost memory for names only, until they are used", async () => {
  const { runtime, backend, reads, ask } = open({ options: { maxAdapters: 20_000 } });
  const usedBytes = (): number => {
    Bun.gc(true);
    return process.memoryUsage().heapUsed;
  };
  const before = usedBytes();
  for (let i = 0; i < 10_000; i++) runtime.registerAdapter(`tenant-${i}`, `/adapters/tenants/${i}/one`);
  const bytesPerName = (usedBytes() - before) / 10_000;
  expect(bytesPerName).toBeLessThan(1024);
  expect([reads.length, runtime.stats().hostCacheBytes, backend.attached.size]).toEqual([0, 0, 0]);
  for (const name of ["tenant-0", "tenant-9999"]) expect((await collect(await ask(name))).ids).toEqual(tokensOf("one"));
  expect([reads.length, runtime.stats().hostCacheBytes]).toEqual([2, 200]);
  expect(runtime.adapters()).toHaveLength(10_000);
  await runtime.close();
});

test("an adapter whose files changed since they were first read is refused when it is read again", async () => {
  let content = "first";
  const { runtime } = openBench({
    readAdapter: () => Promise.resolve(weightsOf(content, 100)),
    options: { hostCacheBytes: 0, adapters: [{ name: "a", path: "/a" }, { name: "b", path: "/b" }] },
  }, { numSlots: 1 });
  const ask = async (name: string) => collect(runtime.generate(requestWith([1], { adapter: await runtime.resolveAdapter({ name }) })));
  await ask("a");
  await ask("b");
  content = "second";
  expect((await ask("a")).finish.error).toMatchObject({ errorCode: "adapter_invalid", message: expect.stringContaining("load_inplace") });
  await runtime.close();
});

describe("an adapter whose requests give numbers that are not finite", () => {
  const poisoned = new Set([5n]);
  const openPoisoned = async () => {
    const bench = open({}, { poisonedSeeds: poisoned });
    await bench.runtime.loadAdapter({ name: "sql", path: "one" });
    await bench.runtime.loadAdapter({ name: "fr", path: "two" });
    const id = await bench.runtime.resolveAdapter({ name: "sql" });
    const reasons = async (...seeds: bigint[]) => {
      const found = [];
      for (const seed of seeds) found.push((await collect(bench.runtime.generate(requestWith([1, 2], { adapter: id, seed, maxTokens: 2 })))).finish.reason);
      return found;
    };
    return { ...bench, id, reasons };
  };

  test("is shut out after three in a row, told of, and others are served", async () => {
    const { runtime, id, reasons, ask } = await openPoisoned();
    expect(await reasons(5n, 5n, 0n, 5n, 5n)).toEqual(["error", "error", "length", "error", "error"]);
    expect(runtime.adapters().find(({ name }) => name === "sql")).toMatchObject({ state: "device", lastError: expect.stringContaining("not a finite number") });
    expect(await reasons(5n)).toEqual(["error"]);
    const message = "adapter sql is served no longer: its last 3 requests gave numbers that are not finite";
    expect(() => runtime.generate(requestWith([1], { adapter: id }))).toThrow(message);
    expect(runtime.resolveAdapter({ name: "sql" })).rejects.toMatchObject({ errorCode: "adapter_invalid", field: "lora_name", message: expect.stringContaining(message) });
    expect(runtime.adapters().find(({ name }) => name === "sql")).toMatchObject({ state: "failed", lastError: expect.stringContaining("not a finite number") });
    expect((await collect(await ask("fr"))).ids).toEqual(tokensOf("two"));
    expect((await collect(runtime.generate(requestWith([1])))).finish.reason).toBe("length");
    await runtime.close();
  });

  test("is served again once it is loaded in its place, and may be unloaded", async () => {
    const { runtime, reasons, ask } = await openPoisoned();
    await reasons(5n, 5n, 5n);
    await runtime.loadAdapter({ name: "sql", path: "two", replace: true });
    expect((await collect(await ask("sql"))).ids).toEqual(tokensOf("two"));
    expect(runtime.adapters().find(({ name }) => name === "sql")).toMatchObject({ state: "device", lastError: null });
    await runtime.unloadAdapter({ name: "sql" });
    expect(await codeOf(runtime.resolveAdapter({ name: "sql" }))).toBe("adapter_not_found");
    await runtime.close();
  });
});
