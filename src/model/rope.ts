/**
 * Inverse frequencies of the rotary position embedding.
 *
 * Every step is rounded to float32, because models were trained and are judged with frequencies computed so;
 * at position 100,000 the rounding is worth 0.003 radians.
 *
 * @source transformers `modeling_rope_utils.py`; scaling rules: Llama 3.1, arXiv:2402.13753 (LongRoPE)
 */
import type { RopeSpec } from "./program.ts";
import type { RopeConfig, RopeScaling } from "./rope-config.ts";

const f32 = Math.fround;

export function ropeSpec({ theta, rotaryDim, scaling }: RopeConfig): RopeSpec {
  const inverseFrequencies = Array.from({ length: rotaryDim / 2 }, (_, pair) => {
    const power = f32(f32(theta) ** f32((2 * pair) / rotaryDim));
    if (scaling.type === "longrope") return f32(1 / f32(f32(scaling.shortFactors[pair]!) * power));
    return scaleFrequency(f32(1 / power), scaling);
  });
  const attentionScaling = scaling.type === "longrope" ? scaling.attentionScaling : 1;
  return { rotaryDim, inverseFrequencies, attentionScaling };
}

function scaleFrequency(
  frequency: number,
  scaling: Exclude<RopeScaling, { type: "longrope" }>,
): number {
  if (scaling.type === "default") return frequency;
  if (scaling.type === "linear") return f32(frequency / f32(scaling.factor));

  const { lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const factor = f32(scaling.factor);
  const wavelength = f32(f32(2 * Math.PI) / frequency);
  if (wavelength > originalMaxPositions / lowFreqFactor) return f32(frequency / factor);
  if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
  const turns = f32(originalMaxPositions / wavelength);
  const smooth = f32(f32(turns - f32(lowFreqFactor)) / f32(highFreqFactor - lowFreqFactor));
  const stretched = f32(f32(f32(1 - smooth) * frequency) / factor);
  return f32(stretched + f32(smooth * frequency));
}
