/** How far a CUDA device's numbers lie from float64 arithmetic, for tests of single operations. */
import { expect } from "bun:test";
import type { Program } from "../../src/model/program.ts";
import type { WeightSource } from "../../src/model/weight-source.ts";
import { readWeight, roundToBfloat16 } from "../helpers/reference-executor.ts";

/** Largest difference, of a number's own size and the root mean square of all; NaN where some number is. */
export function distance(got: ArrayLike<number>, exact: Float64Array): number {
  expect(got.length).toBe(exact.length);
  const scale = Math.sqrt(exact.reduce((sum, value) => sum + value * value, 0) / exact.length);
  expect(scale).toBeGreaterThan(0);
  return exact.reduce((worst, value, i) => Math.max(worst, Math.abs(got[i]! - value) / (Math.abs(value) + scale)), 0);
}

/** The same checkpoint with every matrix as a device keeps it. */
export function roundedMatrices(program: Program, weights: WeightSource): WeightSource {
  const tensors = new Map(program.weights.flatMap((weight) => {
    const values = readWeight(weights, weight);
    const stored = Float32Array.from(weight.kind === "matrix" ? roundToBfloat16(values) : values);
    let at = 0;
    return weight.parts.map(({ tensor, rows }) => [tensor, stored.subarray(at, (at += rows * weight.cols))] as const);
  }));
  return {
    info: (tensor) => weights.info(tensor),
    readRows: (tensor, first, numRows, target) => {
      const { cols } = weights.info(tensor);
      const { buffer, byteOffset } = tensors.get(tensor)!;
      target.set(new Uint8Array(buffer, byteOffset + first * cols * 4, numRows * cols * 4));
    },
  };
}
