/**
 * The long form: `node scripts/bun.mjs test/churn/run.ts [--seconds N] [--streams N] [--seed N] [--record]`.
 *
 * Fails for any wrong answer, any error, and memory that grew. With `--record` its report is `test/churn/results.json`.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { machine } from "../../bench/lib/record.ts";
import { churn } from "./churn.ts";

/** Growth of resident memory after the warm-up that counts as flat. */
const MAX_GROWTH_MIB = 32;

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "300" }, streams: { type: "string", default: "32" }, seed: { type: "string", default: "1" }, record: { type: "boolean", default: false } },
});
const seconds = Number(values.seconds);
const report = await churn({ seconds, numStreams: Number(values.streams), warmUpSeconds: Math.round(seconds / 5), replaceEveryMs: 250, seed: Number(values.seed) });
const recorded = { date: new Date().toISOString(), machine: machine(), maxGrowthMiB: MAX_GROWTH_MIB, ...report };
console.log(JSON.stringify(recorded, null, 1));
if (values.record) await Bun.write(join(import.meta.dir, "results.json"), `${JSON.stringify(recorded, null, 1)}\n`);
process.exit(report.wrong.length > 0 || report.errors.length > 0 || report.growthMiB > MAX_GROWTH_MIB ? 1 : 0);
