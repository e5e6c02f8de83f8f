/** The rotary position rules of a `config.json`, in the spellings of transformers 4 and 5. */
import type { Architecture } from "./architecture.ts";
import type { ConfigFields, Range } from "./config-fields.ts";

export type RopeType = RopeScaling["type"];

export type RopeScaling =
  | { readonly type: "default" }
  /** Positions divided by `factor`. */
  | { readonly type: "linear"; readonly factor: number }
  /** Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1). */
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  /** Each frequency divided by its own factor. Above the original length another list would apply, so contexts end there. */
  | {
      readonly type: "longrope";
      /** `[rotaryDim / 2]` */
      readonly shortFactors: readonly number[];
      readonly originalMaxPositions: number;
      readonly attentionScaling: number;
    };

export interface RopeConfig {
  readonly theta: number;
  /** Rotated part of each head, even, from 2 to the head's size. */
  readonly rotaryDim: number;
  readonly scaling: RopeScaling;
}

const THETA: Range = { min: 1, max: 1e15 };
const FACTOR: Range = { min: 1, max: 1e6 };
const POSITIVE: Range = { min: 1e-6, max: 1e6 };
const POSITIONS: Range = { min: 1, max: 2 ** 24 };
const DEFAULT_THETA = 10_000;
const DEFAULT_ORIGINAL_LENGTH = 4096;
const SCALING_FIELDS = ["factor", "short_factor", "low_freq_factor"];

/** @param maxPositions `max_position_embeddings` */
export function readRopeConfig(
  fields: ConfigFields,
  architecture: Architecture,
  headDim: number,
  maxPositions: number,
): RopeConfig {
  // transformers 5 gives the old name precedence where a file has both, unless it holds nothing.
  const scaling = fields.object("rope_scaling");
  const rope = scaling === undefined || scaling.isEmpty ? fields.object("rope_parameters") : scaling;
  const theta = (rope?.has("rope_theta") ? rope : fields).number(
    "rope_theta",
    THETA,
    architecture.defaults.ropeTheta ?? DEFAULT_THETA,
  );
  const rotaryDim = readRotaryDim(rope, fields, architecture, headDim);
  return {
    theta,
    rotaryDim,
    scaling: readScaling(rope, fields, architecture, rotaryDim, maxPositions),
  };
}

function readRotaryDim(
  rope: ConfigFields | undefined,
  fields: ConfigFields,
  architecture: Architecture,
  headDim: number,
): number {
  const owner = rope?.has("partial_rotary_factor") ? rope : fields;
  const factor = owner.number("partial_rotary_factor", { min: 0, max: 1 }, 1);
  if (factor !== 1 && !architecture.partialRotary) {
    owner.unsupported("partial_rotary_factor", `1 for ${architecture.className}`);
  }
  const rotaryDim = Math.trunc(headDim * factor);
  if (rotaryDim >= 2 && rotaryDim % 2 === 0) return rotaryDim;
  if (factor === 1)
    return fields.invalid("head_dim", `even (heads of ${headDim} cannot be rotated in pairs)`);
  return owner.invalid(
    "partial_rotary_factor",
    `a share of head_dim (${headDim}) that gives an even number of rotated values, not ${rotaryDim}`,
  );
}

function readScaling(
  rope: ConfigFields | undefined,
  fields: ConfigFields,
  architecture: Architecture,
  rotaryDim: number,
  maxPositions: number,
): RopeScaling {
  if (rope === undefined) return { type: "default" };
  for (const layerType of ["full_attention", "sliding_attention"]) {
    if (rope.has(layerType)) rope.unsupported(layerType, "one rope rule for all layers");
  }
  const typeField = rope.has("rope_type") || !rope.has("type") ? "rope_type" : "type";
  const written = rope.string(typeField) ?? "default";
  if (!rope.has(typeField) && SCALING_FIELDS.some((field) => rope.has(field))) {
    rope.invalid(typeField, "given where scaling factors are");
  }
  const type = architecture.ropeTypeAliases?.[written] ?? written;
  if (!isRopeType(type) || !architecture.ropeTypes.includes(type)) {
    return rope.unsupported(
      typeField,
      `${architecture.ropeTypes.join(", ")} for ${architecture.className}`,
    );
  }
  switch (type) {
    case "default":
      return { type };
    case "linear":
      return { type, factor: rope.number("factor", FACTOR) };
    case "llama3":
      return readLlama3(rope);
    case "longrope":
      return readLongrope(rope, fields, rotaryDim, maxPositions);
  }
}

function isRopeType(name: string): name is RopeType {
  return name === "default" || name === "linear" || name === "llama3" || name === "longrope";
}

function readLlama3(rope: ConfigFields): RopeScaling {
  const lowFreqFactor = rope.number("low_freq_factor", POSITIVE);
  const highFreqFactor = rope.number("high_freq_factor", POSITIVE);
  if (highFreqFactor <= lowFreqFactor) {
    rope.invalid("high_freq_factor", `greater than low_freq_factor (${lowFreqFactor})`);
  }
  return {
    type: "llama3",
    factor: rope.number("factor", FACTOR),
    lowFreqFactor,
    highFreqFactor,
    originalMaxPositions: rope.integer("original_max_position_embeddings", POSITIONS),
  };
}

function readLongrope(
  rope: ConfigFields,
  fields: ConfigFields,
  rotaryDim: number,
  maxPositions: number,
): RopeScaling {
  const originalMaxPositions = readOriginalLength(rope, fields);
  const length = rotaryDim / 2;
  const factors = rope.array("short_factor");
  const shortFactors = (factors ?? []).filter(
    (factor): factor is number =>
      typeof factor === "number" && factor >= POSITIVE.min && factor <= POSITIVE.max,
  );
  if (shortFactors.length !== length || factors?.length !== length) {
    rope.invalid(
      "short_factor",
      `an array of ${length} positive numbers, one for each rotated pair`,
    );
  }
  const stretch = rope.number("factor", POSITIVE, maxPositions / originalMaxPositions);
  const attentionScaling =
    stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalMaxPositions));
  return {
    type: "longrope",
    shortFactors,
    originalMaxPositions,
    attentionScaling: rope.number("attention_factor", POSITIVE, attentionScaling),
  };
}

/** Of `config.json` itself; transformers reads its own default where only the scaling rules have the length. */
function readOriginalLength(rope: ConfigFields, fields: ConfigFields): number {
  const field = "original_max_position_embeddings";
  if (fields.has(field)) return fields.integer(field, POSITIONS);
  const written = rope.integer(field, POSITIONS);
  if (written === DEFAULT_ORIGINAL_LENGTH) return written;
  return rope.invalid(field, `at the top of the file, where ${DEFAULT_ORIGINAL_LENGTH} is taken when it is missing`);
}
