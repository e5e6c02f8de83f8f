import { describe, expect, test } from "bun:test";
import { TokenAdjustments } from "../../src/engine/token-adjustments.ts";
import { samplingWith } from "../helpers/sampling.ts";

describe("TokenAdjustments", () => {
  test("is empty and stays empty without bias, penalty or minimum", () => {
    const adjustments = new TokenAdjustments(samplingWith(), [1, 2, 3]);
    adjustments.count(5);
    expect(adjustments.entries).toEqual([]);
  });

  test("counts generated tokens for presence and frequency, and not those of the prompt", () => {
    const adjustments = new TokenAdjustments(samplingWith({ frequencyPenalty: 1 }), [1, 2]);
    expect(adjustments.entries).toEqual([]);
    for (const token of [2, 9, 9]) adjustments.count(token);
    expect(adjustments.entries).toEqual([
      { token: 2, generatedCount: 1, seen: true, bias: 0 },
      { token: 9, generatedCount: 2, seen: true, bias: 0 },
    ]);
  });

  test("sees tokens of prompt and output for the repetition penalty", () => {
    const adjustments = new TokenAdjustments(samplingWith({ repetitionPenalty: 1.2 }), [1, 1, 2]);
    adjustments.count(3);
    expect(adjustments.entries).toEqual([
      { token: 1, generatedCount: 0, seen: true, bias: 0 },
      { token: 2, generatedCount: 0, seen: true, bias: 0 },
      { token: 3, generatedCount: 1, seen: true, bias: 0 },
    ]);
  });

  test("forbids stop tokens until the minimum is out, then gives their bias back", () => {
    const adjustments = new TokenAdjustments(
      samplingWith({ minTokens: 2, stopTokenIds: new Set([7, 8]), logitBias: new Map([[8, 1.5]]) }),
      [],
    );
    const biases = () => adjustments.entries.map(({ token, bias }) => [token, bias]);
    expect(biases()).toEqual([
      [8, -Infinity],
      [7, -Infinity],
    ]);
    adjustments.count(1);
    expect(biases()[0]).toEqual([8, -Infinity]);
    adjustments.count(1);
    expect(biases()).toEqual([
      [8, 1.5],
      [7, 0],
    ]);
  });

  test("hands out the same array every time", () => {
    const adjustments = new TokenAdjustments(samplingWith({ presencePenalty: 1 }), []);
    const before = adjustments.entries;
    adjustments.count(1);
    expect(adjustments.entries).toBe(before);
  });
});
