import { expect, test } from "bun:test";
import fc from "fast-check";
import { RunAllocator } from "../../src/lora/run-allocator.ts";

test("gives runs that never overlap, and everything back when all are freed", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 60 }), fc.array(fc.integer({ min: -8, max: 20 }), { maxLength: 80 }), (numUnits, moves) => {
      const runs = new RunAllocator(numUnits);
      const owner = Array.from({ length: numUnits }, (): number | null => null);
      const held: { start: number; length: number }[] = [];
      for (const [id, move] of moves.entries()) {
        if (move > 0) {
          const start = runs.allocate(move);
          if (start === undefined) {
            expect(runs.longestFree).toBeLessThan(move);
            continue;
          }
          for (let i = start; i < start + move; i++) {
            expect(owner[i]).toBeNull();
            owner[i] = id;
          }
          held.push({ start, length: move });
        } else {
          const [run] = held.splice(Math.abs(move) % Math.max(1, held.length), 1);
          if (run === undefined) continue;
          runs.free(run.start, run.length);
          owner.fill(null, run.start, run.start + run.length);
        }
        expect(runs.numFree).toBe(owner.filter((id) => id === null).length);
      }
      for (const { start, length } of held) runs.free(start, length);
      expect(runs.longestFree).toBe(numUnits);
    }),
    { seed: 4 },
  );
});

test("refuses to free what was not allocated", () => {
  const runs = new RunAllocator(10);
  expect(runs.allocate(4)).toBe(0);
  expect(() => runs.free(2, 4)).toThrow("only an allocated run is freed");
  runs.free(0, 4);
  expect(() => runs.free(0, 4)).toThrow("only an allocated run is freed");
});
