import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { activationOf } from "../../src/lora/activation.ts";

describe("activation", () => {
  test.each([
    ["the only occurrence", [1, 2, 7, 8, 3], 2],
    ["the last of several", [7, 8, 1, 7, 8, 2], 3],
    ["the start", [7, 8, 1], 0],
    ["the end", [1, 7, 8], 1],
    ["the end of the longest overlap", [7, 7, 8], 1],
    ["nowhere without one", [1, 2, 3], Infinity],
    ["nowhere where the end cuts it", [1, 2, 7], Infinity],
    ["nowhere in a prompt that is shorter", [8], Infinity],
  ])("is at %s", (_, prompt, expected) => {
    expect(activationOf([7, 8], prompt, prompt.length)).toBe(expected);
  });

  test("does not look at what is generated", () => {
    expect(activationOf([7, 8], [1, 7, 8, 7, 8], 4)).toBe(1);
    expect(activationOf([7, 8], [1, 7, 8], 2)).toBe(Infinity);
  });

  test("is where a search of texts finds it", () => {
    const few = fc.integer({ min: 0, max: 2 });
    fc.assert(
      fc.property(fc.array(few, { minLength: 1, maxLength: 4 }), fc.array(few, { maxLength: 30 }), (invocation, prompt) => {
        const found = prompt.join("").lastIndexOf(invocation.join(""));
        expect(activationOf(invocation, prompt, prompt.length)).toBe(found < 0 ? Infinity : found);
      }),
    );
  });
});
