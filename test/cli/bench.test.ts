/** `lorikeet bench`: its arguments, and whole runs of the demo as a process. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import type { Report } from "../../src/bench/report/report.ts";
import { pointsOf } from "../../src/bench/workload/points.ts";
import { NOT_SERVED } from "../../src/config/bench-flags.ts";
import { parseCommandLine } from "../../src/config/cli.ts";
import { DEMO, startDemo } from "../helpers/demo-server.ts";
import { noCudaReason } from "../helpers/cuda.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { thrownBy } from "../helpers/thrown.ts";

const parse = (...argv: string[]) => parseCommandLine(["bench", ...argv], { version: "1", demo: () => "/demo", env: {}, readFile: () => "max_batch_size: 7\n" });

describe("bench arguments", () => {
  test("are trtllm-bench's, kebab and snake case alike", () => {
    const kebab = parse("-m", "m", "throughput", "--dataset", "d", "--num-requests", "64", "--concurrency", "16", "--report-json", "r", "--max-batch-size", "3");
    const snake = parse("--model", "m", "throughput", "--dataset=d", "--num_requests=64", "--concurrency", "16", "--report_json", "r", "--max_batch_size", "3");
    expect(kebab).toEqual(snake);
    expect(kebab).toMatchObject({ kind: "bench", ask: { mode: "throughput", dataset: "d", numRequests: 64, concurrency: "16", reportJson: "r", warmup: 2 }, resolved: { config: { model: "m", maxBatchSize: 3 } } });
    expect(parse("throughput", "-m", "name", "--model_path", "dir", "--extra_llm_api_options", "f.yaml")).toMatchObject({ resolved: { config: { model: "dir", maxBatchSize: 7 } } });
    expect(parse("latency", "--dataset", "d", "--streaming")).toMatchObject({ ask: { mode: "latency", concurrency: "-1" } });
  });

  test("of prepare-dataset come before or behind the kind", () => {
    const expected = { ask: { mode: "token-norm-dist", output: "o", randTaskId: [1, 3], loraDir: "l", numRequests: 5, inputMean: 128, inputStdev: 0, popularity: "zipf" } };
    expect(parse("-m", "m", "prepare-dataset", "--output", "o", "--rand-task-id", "1", "3", "--lora-dir", "l", "--popularity", "zipf", "token-norm-dist", "--num-requests", "5", "--input-mean", "128", "--input-stdev", "0", "--output-mean", "128", "--output-stdev", "0")).toMatchObject(expected);
  });

  test.each([
    [["throughput", "--tp", "2"], "--tp is an option of trtllm-bench that is known, not supported: one process serves one whole model"],
    [["throughput", "--kv_cache_free_gpu_mem_fraction", "0.9"], "--kv_cache_free_gpu_mem_fraction is an option of trtllm-bench"],
    [["throughput", "--num-requests", "x"], "--num-requests must be a whole number from 0"],
    [["throughput", "--datset", "x"], "unknown option '--datset'"],
    [["latency", "--concurrency", "2"], "--concurrency of bench latency can only be 1"],
    [["-m", "m", "build", "--quantization", "FP8"], "build is a command of trtllm-bench that is known, not supported: there are no engines to build"],
    [["prepare-dataset", "--rand-task-id", "3", "1", "token-unif-dist"], "--rand-task-id must be two whole numbers"],
    [["prepare-dataset", "token-norm-dist", "--num-requests", "3"], "--input-mean must be given"],
    [[], "name a command"],
  ])("%p: %s", (argv, message) => {
    expect(thrownBy(() => parse(...argv))).toMatchObject({ errorCode: "config_invalid", message: expect.stringContaining(message) });
  });

  const ask = { mode: "serve", concurrency: "-1", requestRate: null, numAdapters: null, dataset: null };

  test("with lists are every combination", () => {
    expect(pointsOf({ ...ask, requestRate: "1, 2.5,inf", numAdapters: "0,8" }).map(({ requestRate, numAdapters, concurrency }) => [numAdapters, requestRate, concurrency])).toEqual([
      [0, 1, null], [0, 2.5, null], [0, Infinity, null], [8, 1, null], [8, 2.5, null], [8, Infinity, null],
    ]);
    expect(pointsOf(ask)).toEqual([{ name: "serve", concurrency: null, requestRate: null, numAdapters: null }]);
  });

  test.each([
    [{ concurrency: "0" }, '--concurrency must be a whole number from 1 up, or -1; several have commas between; got "0"'],
    [{ requestRate: "1,," }, "--request-rate must be a number above 0, or inf"],
    [{ requestRate: "1", concurrency: "2" }, "give one of them"],
    [{ numAdapters: "1.5" }, "--num-adapters must be a whole number from 0 up"],
    [{ numAdapters: "1", dataset: "d" }, "--num-adapters is for workloads"],
  ])("%p is refused: %s", (more, message) => {
    expect(thrownBy(() => pointsOf({ ...ask, ...more }))).toMatchObject({ errorCode: "config_invalid", message: expect.stringContaining(message) });
  });
});

/** trtllm-bench's own, by command, with a value that it takes; from its `bench.py`, `throughput.py`, `low_latency.py` and `prepare_dataset.py`. */
const UPSTREAM: Readonly<Record<string, readonly string[]>> = {
  throughput: [
    "--model_path m", "--workspace w", "-w w", "--log_level info", "--revision r", "--engine_dir d", "--backend wasm", "--custom_module_dirs d", "--config c", "--extra_llm_api_options c",
    "--sampler_options s", "--max_batch_size 4", "--max_num_tokens 64", "--max_seq_len 64", "--beam_width 1", "--kv_cache_free_gpu_mem_fraction 0.9", "--dataset d",
    "--no_skip_tokenizer_init", "--eos_id 1", "--modality image", "--image_data_format pt", "--data_device cpu", "--max_input_len 64", "--num_requests 4", "--warmup 2",
    "--target_input_len 8", "--target_output_len 8", "--tp 1", "--pp 1", "--ep 1", "--cluster_size 1", "--concurrency 4", "--streaming", "--report_json f", "--iteration_log f",
    "--output_json f", "--request_json f", "--enable_chunked_context", "--disable_chunked_context", "--scheduler_policy max_utilization", "--duration 5",
  ],
  latency: ["--concurrency 1", "--num_requests 4", "--warmup 2", "--medusa_choices f", "--dataset d", "--report_json f", "--iteration_log f"],
  "prepare-dataset token-norm-dist --num-requests 1 --input-mean 1 --input-stdev 0 --output-mean 1 --output-stdev 0": [
    "--output f", "--stdout", "--tokenizer t", "--random_seed 1", "--task_id 1", "--rand_task_id 0 1", "--lora_dir d", "--log_level info", "--trust_remote_code",
  ],
  "prepare-dataset token-unif-dist --num-requests 1 --input-min 1 --input-max 1 --output-min 1 --output-max 1": ["--input_min 1", "--input_max 2", "--output_min 1", "--output_max 2", "--num_requests 2"],
  "prepare-dataset real-dataset": [
    "--dataset_name f", "--dataset_config_name c", "--dataset_split s", "--dataset_input_key k", "--dataset_prompt_key k", "--dataset_prompt p", "--dataset_output_key k", "--num_requests 1",
    "--max_input_len 9", "--output_len_dist 4,1",
  ],
};

test("docs/bench.md says of every option of trtllm-bench whether it is taken, in both spellings, or why not", () => {
  const [taken = "", refused = ""] = readFileSync(join(REPOSITORY, "docs/bench.md"), "utf8").split("Refused, with the reason in the message:");
  const [ours = ""] = refused.split("## Options of our own");
  const spellings = (option: string): string[] => [option, option.replace(/^--[a-z_]+/, (name) => name.replaceAll("_", "-"))];
  for (const [command, options] of Object.entries(UPSTREAM)) {
    for (const option of options) {
      const outcomes = spellings(option).map((spelling) => {
        try {
          parse(...command.split(" "), ...spelling.split(" "));
          return "taken";
        } catch (thrown) {
          return (thrown as Error).message.replace(/^\S+ /, "");
        }
      });
      const name = spellings(option).at(-1)!.split(" ")[0]!;
      expect({ option, other: outcomes[1] }).toEqual({ option, other: outcomes[0] });
      if (outcomes[0] === "taken") expect({ option, isDocumented: `${taken}${refused.slice(ours.length)}`.includes(`\`${name}\``) }).toEqual({ option, isDocumented: true });
      else expect({ option, outcome: outcomes[0], isDocumented: ours.includes(`\`${name}\``) }).toEqual({ option, outcome: expect.stringMatching(/^is an option of .* known, not supported: .{10}/), isDocumented: true });
    }
  }
});

test("docs/bench.md names every option, and every one that is refused", () => {
  const page = readFileSync(join(REPOSITORY, "docs/bench.md"), "utf8");
  const help = ["throughput", "serve", "prepare-dataset", "prepare-dataset token-norm-dist", "prepare-dataset token-unif-dist", "prepare-dataset real-dataset"].map((command) => {
    const printed = parse(...command.split(" "), "--help");
    if (printed.kind !== "print") throw new Error(command);
    return printed.text.split("Global Options")[0]!;
  });
  // Settings of the runtime are serve's, and documented there.
  const runtime = new Set(["lora-dir", "source-host", "backend", "dtype", "threads", "download-timeout-s", "max-lora-rank", "max-loras", "max-cpu-loras", "max-queue", "disable-overlap-scheduler", "enable-block-reuse", "help"]);
  const options = new Set(help.flatMap((text) => [...text.matchAll(/--([a-z][a-z-]*)(?= <|\s{2})/g)].map(([, name]) => name!)));
  expect(options.size).toBeGreaterThan(45);
  expect([...options, ...Object.keys(NOT_SERVED)].filter((name) => !runtime.has(name) && !page.includes(`\`--${name}\``))).toEqual([]);
});

const folder = mkdtempSync(join(tmpdir(), "lorikeet-bench-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const read = <T>(name: string): T => JSON.parse(readFileSync(at(name), "utf8")) as T;
mkdirSync(at("loras"));
for (const [i, name] of ["sql", "pirate"].entries()) symlinkSync(join(REPOSITORY, "models/demo/adapters", name), at(`loras/${i}`));

async function run(...argv: string[]) {
  const child = Bun.spawn([process.execPath, "src/main.ts", "bench", ...argv], { cwd: REPOSITORY, stdout: "pipe", stderr: "pipe", stdin: "ignore" });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}
const onWasm = noCudaReason === null ? ["--backend", "wasm"] : [];
const prepare = (output: string, seed = "420") =>
  run("-m", "models/demo", "prepare-dataset", "--output", at(output), "--random-seed", seed, "--rand-task-id", "0", "1", "--lora-dir", relative(REPOSITORY, at("loras")), "token-norm-dist", "--num-requests", "8", "--input-mean", "12", "--input-stdev", "2", "--output-mean", "6", "--output-stdev", "1");

describe("bench runs", () => {
  test("a data set is the same for the same seed, and throughput measures it with its adapters", async () => {
    const [first, , other] = await Promise.all([prepare("d.json"), prepare("again.json"), prepare("other.json", "421")]);
    expect(first).toEqual({ code: 0, stdout: `8 rows written to ${at("d.json")}\n`, stderr: "" });
    expect(other.code).toBe(0);
    expect(readFileSync(at("again.json"), "utf8")).toBe(readFileSync(at("d.json"), "utf8"));
    expect(readFileSync(at("other.json"), "utf8")).not.toBe(readFileSync(at("d.json"), "utf8"));

    const { code, stdout, stderr } = await run("-m", "models/demo", "throughput", ...onWasm, "--dataset", at("d.json"), "--num_requests", "6", "--concurrency", "3", "--report_json", at("r.json"), "--output_json", at("o.json"), "--request_json", at("q.json"), "--plot", at("p.svg"));
    expect({ code, last: stderr.trimEnd().split("\n").at(-1) }).toEqual({ code: 0, last: expect.stringMatching(/^throughput, 3 at once: 6 of 6 answered, 0 under way/) });
    expect(stdout).toContain("= PERFORMANCE OVERVIEW");
    const report = read<Report>("r.json");
    const rows = readFileSync(at("d.json"), "utf8").trimEnd().split("\n").slice(0, 6).map((line) => JSON.parse(line) as { output_tokens: number; lora_request: { lora_name: string } });
    expect(report.request_info).toMatchObject({ num_requests: 6, num_failed: 0 });
    expect(report.adapters.reduce((sum, { output_tokens: tokens }) => sum + tokens, 0)).toBe(rows.reduce((sum, { output_tokens: tokens }) => sum + tokens, 0));
    expect(new Set(report.adapters.map(({ name }) => name))).toEqual(new Set(rows.map(({ lora_request: { lora_name: name } }) => name)));
    expect(report.roofline!.share_of_roofline).toBeGreaterThan(0);
    expect(report.roofline!.share_of_roofline).toBeLessThan(2);
    expect(Object.keys(read<object>("o.json"))).toHaveLength(6);
    expect(read<readonly { index: number }[]>("q.json").map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(readFileSync(at("p.svg"), "utf8")).toStartWith("<svg");
  }, 60_000);

  test("serve measures a running server by named workloads, with its swaps", async () => {
    const server = await startDemo({ loraConfig: { loraDir: [join(DEMO, "adapters")], maxLoras: 2 } });
    try {
      const { code, stdout, stderr } = await run("serve", "--base-url", server.url, "--workload", "churn", "--length-scale", "0.05", "--request-rate", "50,inf", "--num-requests", "8", "--num-adapters", "4", "--warmup", "0", "--report-json", at("s.json"), "--plot", at("s.html"));
      expect({ code, stderr: stderr.includes("serve, 4 adapters, inf requests/s") || stderr }).toEqual({ code: 0, stderr: true });
      expect(stdout).toMatch(/^50 requests\/s +4 /m);
      const { runs } = read<{ runs: readonly Report[] }>("s.json");
      expect(runs.map(({ world_info: { request_rate: rate, num_adapters: adapters } }) => [rate, adapters])).toEqual([[50, 4], ["inf", 4]]);
      expect(runs.every(({ request_info: { num_failed: failed } }) => failed === 0)).toBe(true);
      expect(runs[0]!.adapters.map(({ num_requests: count }) => count)).toEqual([2, 2, 2, 2]);
      expect(runs[0]!.adapter_cache!.swaps).toBeGreaterThanOrEqual(4);
      expect(readFileSync(at("s.html"), "utf8")).toStartWith("<!doctype html>");
    } finally {
      await server.stop();
    }
  }, 60_000);

  test.each([
    [["serve", "--base-url", "http://127.0.0.1:1", "--workload", "base-only"], "error: http://127.0.0.1:1/v1/models does not answer"],
    [["serve"], "error: give either --dataset FILE or --workload NAME"],
    [["serve", "--workload", "s-lora"], 'error: --workload must be one of s-lora-s1, '],
    [["serve", "--dataset", "/nowhere"], "error: --dataset /nowhere cannot be read"],
    [["serve", "--workload", "churn", "--plot", "x.png"], 'error: --plot must end with .svg or .html, got "x.png"'],
    [["-m", "models/demo", "prepare-dataset", "--task-id", "1", "token-unif-dist", "--num-requests", "1", "--input-min", "1", "--input-max", "1", "--output-min", "1", "--output-max", "1"], "Use --lora-dir or omit task IDs"],
  ])("%p ends with a sentence", async (argv, message) => {
    const { code, stderr } = await run(...argv);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
  });
});
