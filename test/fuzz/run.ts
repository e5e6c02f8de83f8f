/**
 * The long run: `node scripts/bun.mjs test/fuzz/run.ts [--seed N] [--inputs N] [--seconds N] [--record]`.
 *
 * Inputs are spread over the targets by turns, so that a run that ends early has tried each of them. With `--record`
 * its result joins `test/fuzz/results.json`, the sum of all recorded runs.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { machine } from "../../bench/lib/record.ts";
import { fuzz, FUZZ_LIMITS, type FuzzResult } from "./harness.ts";
import { targetsOf } from "./targets.ts";

const RESULTS = join(import.meta.dir, "results.json");
/** Of one target's turn. */
const TURN_INPUTS = 100_000;

export interface RecordedRun {
  readonly date: string;
  /** SHA-256 over the readers as they were when the run began: `src/formats`, and `src/lora/adapter-config.ts`. */
  readonly formatsSha256: string;
  readonly adapterConfigSha256?: string;
  readonly seed: number;
  readonly machine: Record<string, unknown>;
  readonly inputs: number;
  readonly seconds: number;
  readonly targets: readonly { readonly target: string; readonly inputs: number; readonly accepted: number; readonly refused: number; readonly slowestMs: number }[];
  readonly growthMiB: number;
  readonly faults: readonly string[];
}

const { values } = parseArgs({
  options: { seed: { type: "string", default: "1" }, inputs: { type: "string", default: "20000000" }, seconds: { type: "string", default: "240" }, record: { type: "boolean", default: false } },
});
const seed = Number(values.seed);
const wanted = Number(values.inputs);
const maxMs = Number(values.seconds) * 1000;

const SRC = join(import.meta.dir, "../../src");
const digestOf = (paths: readonly string[]): string => {
  const hash = new Bun.CryptoHasher("sha256");
  for (const path of paths) hash.update(readFileSync(join(SRC, path)));
  return hash.digest("hex");
};
const readers = {
  formatsSha256: digestOf(readdirSync(join(SRC, "formats")).sort().map((name) => `formats/${name}`)),
  adapterConfigSha256: digestOf(["lora/adapter-config.ts"]),
};

const started = performance.now();
const left = (): number => maxMs - (performance.now() - started);
const startBytes = process.memoryUsage.rss();
const results: FuzzResult[] = [];
const targets = targetsOf();
let total = 0;
for (let turn = 0; total < wanted && left() > 0 && !results.some(({ faults }) => faults.length > 0); turn++) {
  const inputs = Math.min(TURN_INPUTS, wanted - total);
  const result = fuzz(targets[turn % targets.length]!, (seed * 1_000_003 + turn) >>> 0, { ...FUZZ_LIMITS, inputs, maxMs: left() });
  results.push(result);
  total += result.inputs;
}
const growth = process.memoryUsage.rss() - startBytes;

const run: RecordedRun = {
  date: new Date().toISOString(),
  ...readers,
  seed,
  machine: machine(),
  inputs: total,
  seconds: Math.round((performance.now() - started) / 1000),
  targets: targets.map(({ name }) => {
    const of = results.filter(({ target }) => target === name);
    const sum = (field: "inputs" | "accepted" | "refused"): number => of.reduce((all, each) => all + each[field], 0);
    return { target: name, inputs: sum("inputs"), accepted: sum("accepted"), refused: sum("refused"), slowestMs: Math.max(0, ...of.map(({ slowestMs }) => Math.round(slowestMs * 10) / 10)) };
  }),
  growthMiB: Math.round(growth / 2 ** 20),
  faults: results.flatMap(({ target, faults }) => faults.map((fault) => `${target}: ${fault}`)),
};
console.log(JSON.stringify(run, null, 1));
if (values.record) {
  const runs = existsSync(RESULTS) ? (JSON.parse(readFileSync(RESULTS, "utf8")) as { runs: RecordedRun[] }).runs : [];
  const all = [...runs, run];
  await Bun.write(RESULTS, `${JSON.stringify({ inputs: all.reduce((sum, { inputs }) => sum + inputs, 0), runs: all }, null, 1)}\n`);
}
// A job that ran fewer inputs than it promised has not passed.
if (run.faults.length > 0 || (total < wanted && !values.record)) process.exit(1);
