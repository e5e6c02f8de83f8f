import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { RopeConfig, RopeScaling } from "../../src/model/rope-config.ts";
import { ropeSpec } from "../../src/model/rope.ts";

/** Llama 3.1's own numbers. */
const LLAMA3: RopeScaling = {
  type: "llama3",
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalMaxPositions: 8192,
};

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => expect(Math.abs(value / expected[i]! - 1)).toBeLessThan(1e-6));
}

const plain = (theta: number, rotaryDim: number): number[] =>
  Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));

describe("ropeSpec", () => {
  test("falls by powers of theta", () => {
    const { inverseFrequencies, attentionScaling } = ropeSpec({
      theta: 10000,
      rotaryDim: 8,
      scaling: { type: "default" },
    });
    expectClose(inverseFrequencies, [1, 0.1, 0.01, 0.001]);
    expect(attentionScaling).toBe(1);
  });

  test("rounds every frequency to float32, as the reference holds them", () => {
    const { inverseFrequencies } = ropeSpec({
      theta: 10000,
      rotaryDim: 64,
      scaling: { type: "default" },
    });
    expect(inverseFrequencies.every((value) => Math.fround(value) === value)).toBe(true);
    expectClose(inverseFrequencies, plain(10000, 64));
  });

  test("divides every frequency under linear scaling", () => {
    const { inverseFrequencies } = ropeSpec({
      theta: 10000,
      rotaryDim: 8,
      scaling: { type: "linear", factor: 4 },
    });
    expectClose(inverseFrequencies, [0.25, 0.025, 0.0025, 0.00025]);
  });

  test("keeps high, divides low and blends middle frequencies under llama3 scaling", () => {
    // wavelengths 6.28 (kept), 62.8 and 628 (kept), 6283 (blended), at theta 10000 and 8 dimensions
    const { inverseFrequencies } = ropeSpec({ theta: 10000, rotaryDim: 8, scaling: LLAMA3 });
    const smooth = ((8192 * 0.001) / (2 * Math.PI) - 1) / 3;
    expectClose(inverseFrequencies, [1, 0.1, 0.01, (1 - smooth) * (0.001 / 8) + smooth * 0.001]);
  });

  test("gives Llama 3.1's frequencies by the published formula", () => {
    const { inverseFrequencies } = ropeSpec({ theta: 500000, rotaryDim: 128, scaling: LLAMA3 });
    const expected = plain(500000, 128).map((frequency) => {
      const wavelength = (2 * Math.PI) / frequency;
      if (wavelength < 8192 / 4) return frequency;
      if (wavelength > 8192) return frequency / 8;
      const smooth = (8192 / wavelength - 1) / (4 - 1);
      return ((1 - smooth) * frequency) / 8 + smooth * frequency;
    });
    expectClose(inverseFrequencies, expected);
    expect(inverseFrequencies[0]).toBe(1);
    expect(inverseFrequencies[63]! * 8).toBeCloseTo(500000 ** (-126 / 128), 12);
  });

  test("lies between the plain and the divided frequency under llama3 scaling, for any numbers", () => {
    const config = fc.record({
      theta: fc.double({ min: 100, max: 1e6, noNaN: true }),
      factor: fc.double({ min: 1, max: 64, noNaN: true }),
      low: fc.double({ min: 0.5, max: 2, noNaN: true }),
      span: fc.double({ min: 0.5, max: 8, noNaN: true }),
      original: fc.integer({ min: 16, max: 16384 }),
    });
    fc.assert(
      fc.property(config, ({ theta, factor, low, span, original }) => {
        const scaling: RopeScaling = {
          type: "llama3",
          factor,
          lowFreqFactor: low,
          highFreqFactor: low + span,
          originalMaxPositions: original,
        };
        const base: RopeConfig = { theta, rotaryDim: 32, scaling: { type: "default" } };
        const unscaled = ropeSpec(base).inverseFrequencies;
        ropeSpec({ ...base, scaling }).inverseFrequencies.forEach((value, i) => {
          expect(value).toBeLessThanOrEqual(unscaled[i]! * (1 + 1e-6));
          expect(value).toBeGreaterThanOrEqual((unscaled[i]! / factor) * (1 - 1e-6));
        });
      }),
    );
  });

  test("divides each frequency by its own factor under LongRoPE, and scales attention", () => {
    const scaling: RopeScaling = {
      type: "longrope",
      shortFactors: [1, 2, 4, 8],
      originalMaxPositions: 64,
      attentionScaling: 1.25,
    };
    const { inverseFrequencies, attentionScaling } = ropeSpec({
      theta: 10000,
      rotaryDim: 8,
      scaling,
    });
    expectClose(inverseFrequencies, [1, 0.05, 0.0025, 0.000125]);
    expect(attentionScaling).toBe(1.25);
  });
});
