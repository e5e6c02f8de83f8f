/** Which adapter each request asks for. */
import { ConfigError } from "../../core/errors.ts";
import type { Random } from "./random.ts";

export const POPULARITIES = ["uniform", "zipf", "power", "round-robin", "punica-distinct", "punica-uniform", "punica-skewed", "punica-identical"] as const;

export interface Popularity {
  readonly kind: (typeof POPULARITIES)[number];
  /** Of `zipf`: the exponent, more is more skewed. Of `power`: S-LoRA's alpha, 1 is uniform and less is more skewed. */
  readonly parameter: number;
}

const PARAMETERS: Partial<Record<Popularity["kind"], number>> = { zipf: 1, power: 1 };
/** Of Punica's skewed groups. */
const SKEW = 1.5;

/** @param text `uniform`, `zipf`, `zipf:1.2`, `power:0.3`, ... @throws {ConfigError} `config_invalid` */
export function parsePopularity(text: string, field = "--popularity"): Popularity {
  const [kind = "", given, ...rest] = text.split(":");
  const found = POPULARITIES.find((each) => each === kind);
  const fallback = found === undefined ? undefined : PARAMETERS[found];
  const parameter = given === undefined ? (fallback ?? 1) : Number(given);
  const isGood = found !== undefined && rest.length === 0 && (given === undefined || (fallback !== undefined && given !== "" && parameter > 0 && parameter <= 100));
  if (isGood) return { kind: found, parameter };
  throw new ConfigError("config_invalid", `${field} must be one of ${POPULARITIES.join(", ")}, where zipf and power take a number above 0, up to 100, behind a colon, got "${text}"`, { field });
}

/** @returns an index below `numAdapters` for each of `count` requests */
export function chooseAdapters({ kind, parameter }: Popularity, numAdapters: number, count: number, random: Random): number[] {
  const each = (choose: (i: number) => number): number[] => Array.from({ length: count }, (_, i) => choose(i));
  switch (kind) {
    case "uniform":
      return each(() => random.integer(0, numAdapters - 1));
    case "round-robin":
      return each((i) => i % numAdapters);
    case "zipf": {
      const upTo = cumulative(Array.from({ length: numAdapters }, (_, k) => (k + 1) ** -parameter));
      return each(() => firstAbove(upTo, random.uniform() * upTo.at(-1)!));
    }
    case "power":
      // Density alpha * x^(alpha - 1), as numpy's.
      return each(() => Math.min(numAdapters - 1, Math.floor(random.uniform() ** (1 / parameter) * numAdapters)));
    default:
      return random.shuffle(punicaGroups(kind, count).flatMap((size, group) => Array.from({ length: size }, () => group % numAdapters)));
  }
}

/**
 * Requests per adapter. Punica numbers adapters by need; with fewer at hand than groups, groups share them.
 *
 * Source: Punica, `benchmarks/benchmark_utils.py`.
 */
export function punicaGroups(kind: Popularity["kind"], count: number): number[] {
  if (kind === "punica-identical") return [count];
  if (kind === "punica-distinct") return Array.from({ length: count }, () => 1);
  if (kind === "punica-uniform") {
    const groups = Math.ceil(Math.sqrt(count));
    return Array.from({ length: groups }, (_, i) => Math.floor(count / groups) + (i < count % groups ? 1 : 0));
  }
  const sizes: number[] = [];
  for (let left = count, k = 0; left > 0; k++) {
    const size = Math.min(left, Math.floor(SKEW ** k));
    sizes.push(size);
    left -= size;
  }
  return sizes.sort((a, b) => b - a);
}

function cumulative(weights: readonly number[]): number[] {
  let sum = 0;
  return weights.map((weight) => (sum += weight));
}

function firstAbove(sorted: readonly number[], value: number): number {
  let low = 0;
  for (let high = sorted.length - 1; low < high; ) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}
