import { expect, test } from "bun:test";
import fc from "fast-check";
import { asAdapterId } from "../../src/core/ids.ts";
import { HostLru } from "../../src/lora/host-lru.ts";

const id = asAdapterId;

test("drops the longest unused until the new one fits", () => {
  const lru = new HostLru<string>(100);
  expect(lru.put(id(1), "one", 40)).toEqual([]);
  expect(lru.put(id(2), "two", 40)).toEqual([]);
  expect(lru.get(id(1))).toBe("one");
  expect(lru.put(id(3), "three", 50)).toEqual([id(2)]);
  expect(lru.has(id(2))).toBe(false);
  expect(lru.usedBytes).toBe(90);
});

test("puts a newer value in the place of an older one", () => {
  const lru = new HostLru<string>(100);
  lru.put(id(1), "old", 90);
  expect(lru.put(id(1), "new", 60)).toEqual([]);
  expect(lru.get(id(1))).toBe("new");
  expect(lru.usedBytes).toBe(60);
});

test("does not keep what is larger than itself, nor an older value of it", () => {
  const lru = new HostLru<string>(100);
  lru.put(id(1), "small", 10);
  lru.put(id(2), "other", 10);
  expect(lru.put(id(1), "large", 101)).toEqual([id(1)]);
  expect(lru.get(id(1))).toBeUndefined();
  expect(lru.get(id(2))).toBe("other");
});

test("never holds more than its bytes, and counts exactly what it holds", () => {
  const operation = fc.tuple(fc.nat(6), fc.nat(60));
  fc.assert(
    fc.property(fc.nat(100), fc.array(operation, { maxLength: 60 }), (maxBytes, operations) => {
      const lru = new HostLru<number>(maxBytes);
      const kept = new Map<number, number>();
      for (const [which, numBytes] of operations) {
        const dropped = lru.put(id(which), numBytes, numBytes);
        kept.set(which, numBytes);
        for (const each of dropped) kept.delete(each);
        expect(lru.usedBytes).toBeLessThanOrEqual(maxBytes);
        expect(lru.usedBytes).toBe([...kept.values()].reduce((sum, bytes) => sum + bytes, 0));
        expect(lru.size).toBe(kept.size);
      }
    }),
  );
});
