import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { yamlName } from "../../src/config/resolve.ts";
import { SETTINGS } from "../../src/config/settings.ts";
import { nearestName } from "../../src/core/nearest.ts";

describe("the nearest name", () => {
  const names = [...SETTINGS.keys()].map(yamlName);

  test("is found after one slip anywhere", () => {
    fc.assert(
      fc.property(fc.constantFrom(...names.filter((name) => name.length >= 6)), fc.nat(), fc.constantFrom("drop", "double"), (name, at, slip) => {
        const i = at % name.length;
        const written = slip === "drop" ? name.slice(0, i) + name.slice(i + 1) : name.slice(0, i + 1) + name.slice(i);
        expect(nearestName(written, names)).toBeDefined();
      }),
    );
  });

  test("is none for something else altogether, and quick for very long names", () => {
    expect(nearestName("q", ["model", "port"])).toBeUndefined();
    expect(nearestName("x".repeat(1_000_000), names)).toBeUndefined();
    expect(nearestName("MAX-TOKENS", ["max_tokens", "min_tokens"])).toBe("max_tokens");
  });
});
