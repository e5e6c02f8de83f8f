import { describe, expect, test } from "bun:test";
import { AdapterRegistry } from "../../src/runtime/adapter-registry.ts";

describe("AdapterRegistry", () => {
  test("knows a name once, with one path", () => {
    const registry = new AdapterRegistry(10);
    const record = registry.register("sql", { path: "/adapters/sql" }, 5);
    expect(registry.register("sql", { path: "/adapters/sql" }, 9)).toBe(record);
    expect(() => registry.register("sql", { path: "/adapters/other" }, 9)).toThrow(
      "adapter sql is known with another path",
    );
    expect(registry.byId(record.id)).toBe(record);
    expect(record.created).toBe(5);
  });

  test.each(["", "-x", "a b", "a/b/c", "../a", "a/..", "x".repeat(97), "a\0b", "a:b"])(
    "refuses the name %j",
    (name) => {
      expect(() => new AdapterRegistry(10).register(name, { path: "/p" }, 0)).toThrow(
        expect.objectContaining({ errorCode: "invalid_request", field: "lora_name" }),
      );
    },
  );

  test("takes no more names than it may, and a known one still", () => {
    const registry = new AdapterRegistry(1);
    registry.register("a", { path: "/a" }, 0);
    expect(() => registry.register("b", { path: "/b" }, 0)).toThrow(
      expect.objectContaining({ errorCode: "queue_full" }),
    );
    expect(registry.register("a", { path: "/a" }, 0).name).toBe("a");
  });

  test("a number stands for one adapter", () => {
    const registry = new AdapterRegistry(10);
    const a = registry.register("a", { path: "/a" }, 0);
    const b = registry.register("b", { path: "/b" }, 0);
    registry.claimIntId(1, a);
    registry.claimIntId(1, a);
    expect(() => registry.claimIntId(1, b)).toThrow("stands for adapter a and cannot stand for b");
    expect(() => registry.claimIntId(1.5, b)).toThrow("lora_int_id must be a whole number of at least 0, got 1.5");
  });
});
