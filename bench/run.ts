/**
 * The standing set of benches, one process each, results under bench/results. About twenty-five minutes on two cores; leave
 * the machine alone meanwhile.
 *
 *   npm run bench            (or: node scripts/bun.mjs bench/run.ts)
 */
import { join } from "node:path";
import { parseFlags } from "./lib/flags.ts";

const MODELS = ["135m", "demo"] as const;
const FORMATS = ["bfloat16", "int8", "float32"] as const;

const SET: readonly (readonly [script: string, args: readonly string[], result: string])[] = [
  ...MODELS.flatMap((model) =>
    FORMATS.map((format) => ["bench/throughput/wasm.ts", ["--model", model, "--format", format], `wasm-${model}-${format}.json`] as const),
  ),
  ["bench/workloads/standing.ts", [], "standing-demo.json"],
  ["bench/workloads/fairness.ts", [], "fairness-demo.json"],
  ["bench/serving/grammar.ts", [], "grammar-demo.json"],
  ["bench/serving/prefix.ts", ["--model", "135m"], "prefix-135m.json"],
  ["bench/serving/overhead.ts", ["--model", "135m"], "serving-overhead-135m.json"],
  ["bench/serving/streams.ts", [], "serving-streams-200.json"],
  ["bench/serving/streams.ts", ["--streams", "1000"], "serving-streams-1000.json"],
  ["bench/serving/load-generator.ts", [], "load-generator.json"],
  ["bench/micro/step.ts", [], "step.json"],
  ["bench/kernels/wasm-linear.ts", [], "wasm-linear.json"],
  ["bench/kernels/wasm-experts.ts", [], "wasm-experts.json"],
];

parseFlags({});
console.log(`${SET.length} benches, which write\n${SET.map(([, , result]) => `  bench/results/${result}`).join("\n")}`);
for (const [script, args, result] of SET) {
  console.log(`\n== ${script} ${args.join(" ")}`);
  const command = [process.execPath, script, ...args, "--json", `bench/results/${result}`];
  const { exitCode } = Bun.spawnSync(command, { cwd: join(import.meta.dir, ".."), stdout: "inherit", stderr: "inherit" });
  if (exitCode !== 0) {
    console.error(`${script} ${args.join(" ")} ended with ${exitCode}; the benches after it were not run.`);
    process.exit(exitCode);
  }
}
