/**
 * The standing set of benches, one process each, results under bench/results.
 *
 *   npm run bench            (or: node scripts/bun.mjs bench/run.ts)
 */
const SET: readonly (readonly [script: string, args: readonly string[], result: string])[] = [
  ["bench/throughput/wasm.ts", ["--model", "135m", "--format", "bfloat16"], "wasm-135m-bfloat16.json"],
  ["bench/throughput/wasm.ts", ["--model", "135m", "--format", "int8"], "wasm-135m-int8.json"],
  ["bench/throughput/wasm.ts", ["--model", "demo", "--format", "bfloat16"], "wasm-demo-bfloat16.json"],
  ["bench/serving/overhead.ts", ["--model", "135m"], "serving-overhead-135m.json"],
];

for (const [script, args, result] of SET) {
  console.log(`\n== ${script} ${args.join(" ")}`);
  const command = [process.execPath, script, ...args, "--json", `bench/results/${result}`];
  const { exitCode } = Bun.spawnSync(command, { stdout: "inherit", stderr: "inherit" });
  if (exitCode !== 0) process.exit(exitCode);
}
