import { expect, test } from "bun:test";
import fc from "fast-check";
import { MAX_CELLS, poolCells } from "../../src/runtime/pool-cells.ts";
import { until } from "../helpers/until.ts";
import { collect, openBench, requestWith } from "../helpers/runtime.ts";

test("the memory map says who holds pages, the device and the host, and lets go of what has ended", async () => {
  // Steps wait for their turn, so that they can be stopped while all three run.
  const held = Promise.withResolvers<void>();
  const turn = () => new Promise<void>((resolve) => void setImmediate(resolve));
  const { runtime, backend } = openBench(
    { yieldTurn: () => (runtime.stats().generatedTokens > 9 ? held.promise : turn()) },
    { numSlots: 2 },
  );
  const idle = runtime.memory();
  expect(idle).toMatchObject({
    weightBytes: backend.info.weightBytes,
    kv: { numPages: backend.info.numPages, pageTokens: backend.info.pageTokens, held: [] },
    device: { maxBytes: 1000, held: [] },
    pool: { numBytes: backend.info.numExtents * backend.info.extentBytes, numExtents: backend.info.numExtents },
    host: { held: [] },
  });
  const ask = async (name: string | null) =>
    runtime.generate(requestWith([1, 2, 3], { adapter: name === null ? null : await runtime.resolveAdapter({ name }), maxTokens: 40 }));
  const running = [await ask("a1"), await ask("a1"), await ask(null)];
  await until(() => runtime.stats().runningRequests === 3 && runtime.stats().generatedTokens > 9);
  const busy = runtime.memory();
  expect(busy.device.held).toEqual([{ adapter: "a1", numBytes: expect.any(Number), isUsed: true }]);
  expect(busy.host.held).toEqual([{ adapter: "a1", numBytes: 100, isUsed: true }]);
  expect(new Set(busy.kv.held.map(({ adapter }) => adapter))).toEqual(new Set(["a1", null]));
  expect(busy.kv.held.reduce((sum, { numPages }) => sum + numPages, 0)).toBe(runtime.stats().usedPages);

  const { holders, extentsPerCell } = busy.pool.cells;
  expect([extentsPerCell, holders.length]).toEqual([1, busy.pool.numExtents]);
  expect(busy.kv.held.map((_, holder) => holders.filter((each) => each === holder).length)).toEqual(busy.kv.held.map(({ numPages }) => numPages));
  // The adapter lies at the high end, behind idle pages in the order of holders.
  expect(holders.slice(-10)).toEqual(Array.from({ length: 10 }, () => busy.kv.held.length + 1));

  held.resolve();
  await Promise.all(running.map((generation) => collect(generation)));
  await collect(await ask("a2"));
  await until(() => runtime.memory().device.held.every(({ isUsed }) => !isUsed));
  expect(runtime.memory().kv.held).toEqual([]);
  const { kv: { numIdle }, pool: { cells } } = runtime.memory();
  expect(cells.holders.filter((holder) => holder === 0)).toEqual(Array.from({ length: numIdle }, () => 0));
  expect([1, 2].map((holder) => cells.holders.filter((each) => each === holder).length)).toEqual([10, 10]);
  expect(runtime.memory().device.held.map(({ adapter }) => adapter)).toEqual(["a1", "a2"]);
  await runtime.close();
});

test("a pool of any size is a picture of so many cells at most, each of who holds most of it", () => {
  const owners = fc.integer({ min: 1, max: 5_000 }).chain((numPages) => fc.array(fc.option(fc.nat({ max: 3 }), { freq: 3 }), { minLength: numPages, maxLength: numPages }));
  fc.assert(
    fc.property(owners, (owner) => {
      const held = [0, 1, 2, 3].map((holder) => owner.flatMap((each, page) => (each === holder ? [page] : [])));
      const { extentsPerCell, holders } = poolCells(owner.length, held);
      expect(holders.length).toBeLessThanOrEqual(MAX_CELLS);
      expect(Math.ceil(owner.length / extentsPerCell)).toBe(holders.length);
      for (const [cell, holder] of holders.entries()) {
        const inside = owner.slice(cell * extentsPerCell, (cell + 1) * extentsPerCell);
        const count = (of: number) => inside.filter((each) => each === of).length;
        const most = Math.max(...[0, 1, 2, 3].map(count));
        expect(holder === null ? 0 : count(holder)).toBe(most);
      }
    }),
    { numRuns: 50 },
  );
  expect(poolCells(3 * MAX_CELLS + 1, [[0, 3 * MAX_CELLS]])).toMatchObject({ extentsPerCell: 4 });
});
