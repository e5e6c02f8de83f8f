/** Workloads by name: the settings that the papers were measured with, for an open loop or a closed one. */
import { ConfigError } from "../../core/errors.ts";
import { type Arrivals, arrivalTimes } from "./arrivals.ts";
import type { DatasetRow } from "./dataset.ts";
import { randomIds } from "./lengths.ts";
import { chooseAdapters, type Popularity } from "./popularity.ts";
import { Random } from "./random.ts";
import type { Trace } from "./trace.ts";

export interface WorkloadOptions {
  readonly seed: number;
  /** Adapters at hand. */
  readonly numAdapters: number;
  readonly vocabSize: number;
  /** Lengths are multiplied by it, for models whose context is shorter than the paper's; above 0. */
  readonly lengthScale: number;
  /** Each replaces the workload's own; `null` keeps it. */
  readonly rate: number | null;
  readonly cv: number | null;
  readonly popularity: Popularity | null;
  readonly durationS: number | null;
  readonly numRequests: number | null;
}

interface Workload {
  /** One line for `--help`, with the source. */
  readonly doc: string;
  readonly rate: number;
  readonly cv: number;
  readonly durationS: number | null;
  readonly numRequests: number | null;
  readonly popularity: Popularity | null;
  /** Tokens of prompt and answer, at scale 1. */
  readonly lengths: (random: Random) => readonly [input: number, output: number];
}

const power = (parameter: number): Popularity => ({ kind: "power", parameter });
const punica = (kind: Popularity["kind"]): Workload => ({
  doc: `Punica's 1,024 requests over adapters by ${kind}, all at once (closed loop of 32 in the paper)`,
  rate: Infinity, cv: 1, durationS: null, numRequests: 1024,
  popularity: { kind, parameter: 1 },
  lengths: punicaLengths,
});
const sLora = (doc: string, rate: number): Workload => ({
  doc, rate, cv: 1, durationS: 300, numRequests: null, popularity: power(1),
  lengths: sLoraLengths,
});

function sLoraLengths(random: Random): readonly [number, number] {
  return [random.integer(8, 511), random.integer(8, 511)];
}

/** Prompts are log-normal, whole sequences uniform up to 2,048. Source: Punica, `benchmarks/benchmark_utils.py`. */
function punicaLengths(random: Random): readonly [number, number] {
  const input = Math.min(2046, Math.max(1, Math.floor(18 * Math.exp(random.normal(0, 0.8)) - 1)));
  const total = Math.max(input + 2, random.integer(0, 2047));
  return [input, total - input];
}

export const WORKLOADS = {
  "s-lora-s1": sLora("S-LoRA's setting S1: 2 requests/s for 300 s, adapters by power:1, lengths uniform 8 to 511", 2),
  "s-lora-s2": sLora("S-LoRA's setting S2, whose adapters have ranks 64, 32, 16 and 8 in turn: 10 requests/s for 300 s", 10),
  "punica-distinct": punica("punica-distinct"),
  "punica-uniform": punica("punica-uniform"),
  "punica-skewed": punica("punica-skewed"),
  "punica-identical": punica("punica-identical"),
  churn: {
    doc: "100 prompts of 256 tokens, 128 of answer, 4 requests/s, adapters in turn: the worst for any cache (SGLang's and vLLM's churn recipes)",
    rate: 4, cv: 1, durationS: null, numRequests: 100, popularity: { kind: "round-robin", parameter: 1 }, lengths: () => [256, 128],
  },
  fairness: {
    doc: "VTC's overload: two clients for 360 s, 256 tokens in and out, one at ten times the rate of the other; each has an adapter",
    rate: 3.3, cv: 1, durationS: 360, numRequests: null, popularity: null, lengths: () => [256, 256],
  },
  "base-only": {
    doc: "the base model alone, on a server that has adapters: 2 requests/s for 300 s, lengths as S-LoRA's",
    rate: 2, cv: 1, durationS: 300, numRequests: null, popularity: null, lengths: sLoraLengths,
  },
} satisfies Record<string, Workload>;

export type WorkloadName = keyof typeof WORKLOADS;
export const WORKLOAD_NAMES = Object.keys(WORKLOADS) as readonly WorkloadName[];

export const NAME_SOME = "name some with --lora-dir, or for a server with --lora-modules";

/** Of the requests of `fairness`, those of the client at ten times the other's rate. */
const HOG_SHARE = 10 / 11;

/**
 * Without adapters every row asks for the base model, as S-LoRA's runs with none.
 *
 * @returns rows in the order of their arrival; the same for the same options
 * @throws {ConfigError} `config_invalid` where the workload needs more adapters than there are
 */
export function namedTrace(name: WorkloadName, options: WorkloadOptions): Trace {
  const workload: Workload = WORKLOADS[name];
  if (name === "fairness" && options.numAdapters < 2) {
    throw new ConfigError("config_invalid", `--workload fairness needs 2 adapters, one for each client, and there ${options.numAdapters === 1 ? "is 1" : "are none"}; ${NAME_SOME}`, { field: "--workload" });
  }
  const arrivals: Arrivals = { rate: options.rate ?? workload.rate, cv: options.cv ?? workload.cv };
  const count = numRequests(workload, options, arrivals);
  const popularity = options.popularity ?? workload.popularity;
  return trace(arrivals, count, options, workload.lengths, (random) => {
    if (name === "base-only" || options.numAdapters === 0) return Array.from({ length: count }, () => null);
    if (name === "fairness") return Array.from({ length: count }, () => (random.uniform() < HOG_SHARE ? 0 : 1));
    return chooseAdapters(popularity!, options.numAdapters, count, random);
  });
}

/** The four streams of draws do not share a generator, so that changing one option leaves the others' draws alone. */
export function trace(
  arrivals: Arrivals,
  count: number,
  { seed, vocabSize, lengthScale }: Pick<WorkloadOptions, "seed" | "vocabSize" | "lengthScale">,
  lengths: Workload["lengths"],
  choose: (random: Random) => readonly (number | null)[],
): Trace {
  const stream = (index: number): Random => new Random(seed * 8 + index);
  const times = arrivalTimes(arrivals, count, stream(0));
  const adapters = choose(stream(1));
  const lengthsOf = stream(2);
  const ids = stream(3);
  return times.map((atMs, i) => {
    const [input, output] = lengths(lengthsOf).map((length) => Math.max(1, Math.round(length * lengthScale)));
    return { atMs, prompt: randomIds(input!, vocabSize, ids), outputTokens: output!, adapter: adapters[i]! };
  });
}

/** @throws {ConfigError} `config_invalid` */
export function workloadOf(name: string): WorkloadName {
  const found = WORKLOAD_NAMES.find((each) => each === name);
  if (found !== undefined) return found;
  throw new ConfigError("config_invalid", `--workload must be one of ${WORKLOAD_NAMES.join(", ")}, got "${name}"`, { field: "--workload" });
}

export interface DatasetTraceOptions {
  readonly seed: number;
  /** `null` for all at once. */
  readonly rate: number | null;
  readonly cv: number | null;
  /** `null` for all. More than there are begins again with the first. */
  readonly numRequests: number | null;
}

/** Adapters are numbered in the order of their names' first rows. */
export function datasetTrace(rows: readonly DatasetRow[], { seed, rate, cv, numRequests: wished }: DatasetTraceOptions): Trace {
  const names = [...new Set(rows.flatMap(({ lora }) => lora?.name ?? []))];
  const count = wished ?? rows.length;
  const times = arrivalTimes({ rate: rate ?? Infinity, cv: cv ?? 1 }, count, new Random(seed * 8));
  return times.map((atMs, i) => {
    const { prompt, outputTokens, lora } = rows[i % rows.length]!;
    return { atMs, prompt, outputTokens, adapter: lora === null ? null : names.indexOf(lora.name) };
  });
}

function numRequests(workload: Workload, { numRequests: wished, durationS }: WorkloadOptions, { rate }: Arrivals): number {
  if (wished !== null) return wished;
  const duration = durationS ?? workload.durationS;
  if (duration !== null && rate !== Infinity) return Math.max(1, Math.floor(duration * rate));
  return workload.numRequests ?? 100;
}
