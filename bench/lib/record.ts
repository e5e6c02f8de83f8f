/** What every bench writes: where it ran, what it measured, medians and spread. */
import { cpus, totalmem } from "node:os";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly samples: number;
}

export function spreadOf(samples: readonly number[]): Spread {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)!, samples: sorted.length };
}

export const mapSpread = (spread: Spread, to: (value: number) => number): Spread => {
  const ends = [to(spread.min), to(spread.max)];
  return { median: to(spread.median), min: Math.min(...ends), max: Math.max(...ends), samples: spread.samples };
};

/** Empty on a machine without git. */
const git = (...args: string[]): string => (Bun.which("git") === null ? "" : Bun.spawnSync(["git", ...args]).stdout.toString().trim());

/** Above this, threads of the bench had to share a core with someone, and its figures say little. */
const QUIET_CORES = 0.1;

/** Cores that other processes kept busy while a bench measured. */
export class Neighbours {
  readonly #startedMs = performance.now();
  readonly #everyoneMs = Neighbours.#busyMs();
  readonly #own = process.cpuUsage();

  static #busyMs(): number {
    return cpus().reduce((sum, { times: { user, nice, sys, irq } }) => sum + user + nice + sys + irq, 0);
  }

  /** Mean number of cores since this was made; says so when it is too many. */
  cores(): number {
    const own = process.cpuUsage(this.#own);
    const othersMs = Neighbours.#busyMs() - this.#everyoneMs - (own.user + own.system) / 1000;
    const cores = Math.max(0, othersMs / (performance.now() - this.#startedMs));
    if (cores > QUIET_CORES) {
      console.log(`\nDISTURBED: other processes kept ${cores.toFixed(2)} cores busy meanwhile; measure again on a quiet machine.`);
    }
    return Number(cores.toFixed(3));
  }
}

/** What a figure is held to. The ratio is at least 1 where the limit is kept, whichever way it points. */
export interface Limit {
  readonly figure: string;
  readonly median: number;
  readonly atLeast?: number;
  readonly atMost?: number;
  readonly ratio: number;
}
export const atLeast = (figure: string, { median }: Spread, limit: number): Limit => ({ figure, median, atLeast: limit, ratio: median / limit });
/** A cost may be measured as nothing, or less: the ratio ends at 100. */
export const atMost = (figure: string, { median }: Spread, limit: number): Limit => ({
  figure,
  median,
  atMost: limit,
  ratio: Math.min(100, limit / Math.max(median, 1e-9)),
});

export function printLimits(limits: readonly Limit[]): void {
  if (limits.length === 0) return;
  console.log();
  printTable(
    ["limit", "median", "limit", "ratio", ""],
    limits.map(({ figure, median, atLeast: least, atMost: most, ratio }) => [
      figure,
      median.toFixed(3),
      least === undefined ? `<= ${most}` : `>= ${least}`,
      ratio.toFixed(2),
      ratio >= 1 ? "kept" : "MISSED",
    ]),
  );
}

export function machine(): Record<string, unknown> {
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    bun: Bun.version,
    platform: `${process.platform}-${process.arch}`,
  };
}

export async function writeRecord(path: string, name: string, results: unknown, coresOfOthers?: number): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  const record = {
    name,
    date: new Date().toISOString(),
    // A bundle that was carried elsewhere is told what it was made from.
    commit: process.env["BENCH_COMMIT"] ?? git("rev-parse", "HEAD"),
    dirty: git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results") !== "",
    machine: machine(),
    coresOfOthers,
    results,
  };
  await Bun.write(path, `${JSON.stringify(record, null, 1)}\n`);
  console.log(`\nwritten: ${path}`);
}

/** Fixed-width columns; numbers align right. */
export function printTable(header: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = header.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join("  ");
  console.log(line(header));
  for (const row of rows) console.log(line(row));
}
