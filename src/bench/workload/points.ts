/** The runs of one command: every combination of the lists that were given. */
import { ConfigError } from "../../core/errors.ts";

export interface Point {
  readonly name: string;
  /** `null` for no limit. */
  readonly concurrency: number | null;
  /** `null` for the workload's own. */
  readonly requestRate: number | null;
  /** `null` for all. */
  readonly numAdapters: number | null;
}

export interface PointsAsk {
  readonly mode: string;
  readonly concurrency: string;
  readonly requestRate?: string | null;
  readonly numAdapters: string | null;
  readonly dataset: string | null;
}

/** @throws {ConfigError} `config_invalid` that names the list */
export function pointsOf({ mode, concurrency, requestRate = null, numAdapters, dataset }: PointsAsk): Point[] {
  const limits = parseList("--concurrency", concurrency, (text) => (text === "-1" ? null : count(text, 1)), "a whole number from 1 up, or -1");
  const rates = requestRate === null ? [null] : parseList("--request-rate", requestRate, (text) => (text === "inf" ? Infinity : positive(text)), "a number above 0, or inf");
  const adapters = numAdapters === null ? [null] : parseList("--num-adapters", numAdapters, (text) => count(text, 0), "a whole number from 0 up");
  if (requestRate !== null && concurrency !== "-1") {
    throw wrong("--request-rate", "sends requests at given times, --concurrency as earlier ones end; give one of them");
  }
  if (numAdapters !== null && dataset !== null) throw wrong("--num-adapters", "is for workloads; the rows of a data set name their adapters themselves");
  return adapters.flatMap((each) =>
    limits.flatMap((limit) =>
      rates.map((rate) => ({
        concurrency: limit, requestRate: rate, numAdapters: each,
        name: [mode, each === null ? "" : `${each} adapters`, limit === null ? "" : `${limit} at once`, rate === null ? "" : `${rate === Infinity ? "inf" : rate} requests/s`].filter((part) => part !== "").join(", "),
      })),
    ),
  );
}

function parseList<T>(flag: string, given: string, read: (text: string) => T, about: string): T[] {
  return given.split(",").map((each) => {
    const value = read(each.trim());
    if (Number.isNaN(value)) throw wrong(flag, `must be ${about}; several have commas between; got "${given}"`);
    return value;
  });
}

const count = (text: string, least: number): number => (/^\d+$/.test(text) && Number(text) >= least ? Number(text) : NaN);
const positive = (text: string): number => (text !== "" && Number(text) > 0 && Number(text) < Infinity ? Number(text) : NaN);

const wrong = (field: string, problem: string): ConfigError => new ConfigError("config_invalid", `${field} ${problem}`, { field });
