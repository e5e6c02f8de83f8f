/** How long prompts and answers are, in tokens. */
import type { Random } from "./random.ts";

export type Lengths =
  | { readonly kind: "normal"; readonly mean: number; readonly deviation: number }
  /** Both ends included. */
  | { readonly kind: "uniform"; readonly least: number; readonly most: number };

export function drawLength(lengths: Lengths, random: Random): number {
  if (lengths.kind === "uniform") return random.integer(lengths.least, lengths.most);
  return Math.max(1, Math.ceil(random.normal(lengths.mean, lengths.deviation)));
}

/** Ids that a model may be asked with; the first few are special in most vocabularies. */
export function randomIds(count: number, vocabSize: number, random: Random): number[] {
  const least = vocabSize > 1024 ? 256 : 0;
  return Array.from({ length: count }, () => random.integer(least, vocabSize - 1));
}
