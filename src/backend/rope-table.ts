/** Rotary positions as both backends hold them. */
import type { Program } from "../model/program.ts";

/**
 * Cosines, then sines, of every position: `[maxContext, rotaryDim]`.
 *
 * Angles are rounded to float32 as the reference implementation's are.
 */
export function ropeTable(program: Program, maxContext: number, table: Float32Array): void {
  const { rotaryDim, inverseFrequencies, attentionScaling } = program.rope;
  const half = rotaryDim / 2;
  for (let position = 0; position < maxContext; position++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * Math.fround(inverseFrequencies[i]!));
      table[position * rotaryDim + i] = Math.cos(angle) * attentionScaling;
      table[position * rotaryDim + half + i] = Math.sin(angle) * attentionScaling;
    }
  }
}
