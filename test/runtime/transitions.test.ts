import { describe, expect, test } from "bun:test";
import { AdapterError } from "../../src/core/errors.ts";
import type { Transition } from "../../src/runtime/runtime.ts";
import { collect, openBench, requestWith, weightsOf } from "../helpers/runtime.ts";

async function watched(...names: string[]) {
  const { runtime } = openBench({
    readAdapter: ({ name }) =>
      name === "a2" ? Promise.reject(new AdapterError("adapter_invalid", "its files are not an adapter")) : Promise.resolve(weightsOf(name, 100)),
  });
  const seen: Transition[] = [];
  const stop = runtime.watch((transition) => seen.push(transition));
  for (const name of names) await collect(runtime.generate(requestWith([1, 2], { adapter: await runtime.resolveAdapter({ name }) })));
  return { runtime, seen, stop };
}

const types = (seen: readonly Transition[]) => seen.flatMap(({ type }) => (type === "actor.entered" ? [] : [type]));

describe("transitions", () => {
  test("tell the life of a request and of its adapter in order, by name", async () => {
    const { runtime, seen } = await watched("a1");
    expect(types(seen)).toEqual([
      "request.submitted", "adapter.wanted", "image.wanted", "image.missed", "adapter.reading", "adapter.loaded", "image.kept",
      "slot.filled", "slot.granted", "request.ended", "adapter.released",
    ]);
    expect(seen.filter(({ type }) => type !== "actor.entered").every(({ adapter }) => adapter === "a1")).toBe(true);
    const ended = seen.find(({ type }) => type === "request.ended")!;
    expect(ended).toMatchObject({ actor: "requestScheduler", reason: "length", usage: { promptTokens: 2, completionTokens: 8 } });
    for (const type of ["adapter.loaded", "slot.filled", "slot.granted"]) {
      expect(seen.find((each) => each.type === type)!.elapsedMs).toBeGreaterThanOrEqual(0);
    }
    await runtime.close();
  });

  test("tell each state that an actor enters, once, and nothing per step", async () => {
    const { runtime, seen } = await watched("a1");
    const states = (actor: string) => seen.flatMap((each) => (each.actor === actor && each.state !== undefined ? [each.state] : []));
    expect(states("slotAllocator")).toEqual(["uploading", "ready"]);
    const scheduler = states("requestScheduler");
    expect(scheduler).toContain("stepping");
    expect(scheduler.every((state, i) => state !== scheduler[i - 1])).toBe(true);
    expect(scheduler.length).toBeLessThan(8);
    await runtime.close();
  });

  test("tell why an adapter failed, without its path", async () => {
    const { runtime, seen } = await watched("a2");
    const error = { code: "adapter_invalid", message: expect.stringContaining("its files are not an adapter") };
    expect(seen.find(({ type }) => type === "adapter.failed")).toMatchObject({ adapter: "a2", error });
    expect(seen.find(({ type }) => type === "request.ended")).toMatchObject({ reason: "error", error });
    expect(JSON.stringify(seen)).not.toContain("/adapters/");
    await runtime.close();
  });

  test("are told to nobody who has left", async () => {
    const { runtime, seen, stop } = await watched();
    stop();
    await collect(runtime.generate(requestWith([1])));
    expect(seen).toEqual([]);
    await runtime.close();
  });
});
