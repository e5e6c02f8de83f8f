/** The command as a process: start, answers, signals, exit codes. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { chooseBackend } from "../../src/backend/choose-backend.ts";
import { noCudaReason } from "../helpers/cuda.ts";

const root = join(import.meta.dir, "../..");
const files = mkdtempSync(join(tmpdir(), "lorikeet-cli-"));
const badYaml = join(files, "bad.yaml");
const portYaml = join(files, "port.yaml");
writeFileSync(badYaml, "a: b: c\n");
writeFileSync(portYaml, "port: 0\n");
afterAll(() => rmSync(files, { recursive: true }));

/** `auto`, which is the WASM backend but where a CUDA device answers; answers below are compared word for word. */
const onWasm = noCudaReason === null ? ["--backend", "wasm"] : [];

function spawn(...argv: string[]) {
  return spawnWith({}, ...argv);
}

function spawnWith(env: Readonly<Record<string, string>>, ...argv: string[]) {
  const options = { cwd: root, env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe", stdin: "ignore" } as const;
  return Bun.spawn([process.execPath, "src/main.ts", ...argv], options);
}

const outcome = (...argv: string[]) => outcomeOf(spawn(...argv));

async function outcomeOf(child: Child) {
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

type Child = ReturnType<typeof spawn>;

/** Reads standard output up to the end of the start message. */
async function bannerOf(child: Child): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  const reader = child.stdout.getReader();
  while (!text.endsWith("\n\n") && !/Try it:\n(.+\n)+$/.test(text)) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`the server ended: ${text}${await child.stderr.text()}`);
    text += decoder.decode(value, { stream: true });
  }
  reader.releaseLock();
  return text;
}

/** What the shell would hand to curl. */
async function curlArguments(line: string): Promise<string[]> {
  const shell = Bun.spawn(["sh", "-c", `curl() { printf '%s\\n' "$@"; }; ${line}`], { stdout: "pipe" });
  return (await shell.stdout.text()).trimEnd().split("\n");
}

async function paste(line: string): Promise<Response> {
  const args = await curlArguments(line);
  const url = args.find((arg) => arg.startsWith("http"))!;
  return fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: args[args.indexOf("-d") + 1]! });
}

describe("lorikeet", () => {
  test("prints its version", async () => {
    expect(await outcome("--version")).toEqual({ code: 0, stdout: `${packageJson.version}\n`, stderr: "" });
  });

  test.each([
    [["serve", "--prt", "1"], 2, "error: unknown option '--prt' (Did you mean --port?); see lorikeet --help\n"],
    [["serve", "no/such/model"], 2, 'error: the model "no/such/model" is not a directory; give one that holds a model\'s files\n'],
    [["serve", "models/demo", "--host", "0.0.0.0", "--port", "0"], 2, "error: host 0.0.0.0 can be reached from other machines, and there is no API key; set --api-key or LORIKEET_API_KEY, or pass --allow-no-key\n"],
    [["serve", "models/demo", "--lora-dir", "models"], 2, "error: lora_dir models holds no adapter, and no directory in it does\n"],
    [["serve", "models/demo", "--max-seq-len", "4096"], 2, "error: max_seq_len must be at most the 1024 positions of the model, got 4096\n"],
    [["serve", "--config", badYaml], 2, `error: ${badYaml}:1:4: Nested mappings are not allowed in compact mappings\n`],
    [["serve", "--config", portYaml], 2, "error: model is missing; give the directory of the base model\n"],
    [["serve", "models/demo", "--dtype", "fp8"], 2, 'error: --dtype must be bfloat16, float32, int8 or auto, got "fp8"\n'],
    [["serve", "test"], 1, "error: the model directory has no config.json; give a directory with a model's files\n"],
    [["generate", "models/demo", "hi", "--temperature", "-1"], 2, "error: --temperature must be a number from 0 to 1000000, got -1\n"],
    [["generate", "no/such\nmodel", "hi"], 2, 'error: the model "no/such\\nmodel" is not a directory; give one that holds a model\'s files\n'],
    [["generate", "models/demo", "word ".repeat(2000)], 2, expect.stringMatching(/^error: the prompt has \d+ tokens.*\n$/)],
    [["generate", "models/demo", "hi", "--lora", "nope"], 2, 'error: --lora "nope" is neither a directory nor a .nemo file, and no --lora-dir tells where adapters are\n'],
    [["generate", "models/demo", "hi", "--lora", "sqll", "--lora-dir", "models/demo/adapters/sql"], 2, 'error: no adapter is named "sqll" (did you mean sql?); known are sql\n'],
    [["generate", "models/demo", "hi", "--lora", "tokens", "--lora-dir", "test/fixtures/peft/tokens"], 1, expect.stringMatching(/^error: adapter tokens cannot be served: .+\n$/)],
  ])("%p ends with one line and its exit code", async (argv, code, stderr) => {
    expect(await outcome(...argv)).toEqual({ code, stdout: "", stderr });
  });

  test("ends with one line where CUDA is asked for and the addon is missing", async () => {
    const child = spawnWith({ LORIKEET_CUDA_ADDON: join(files, "none.node") }, "serve", "models/demo", "--backend", "cuda");
    const stderr = "error: LORIKEET_CUDA_ADDON names a file that does not exist; use --backend wasm, or auto\n";
    expect(await outcomeOf(child)).toEqual({ code: 1, stdout: "", stderr });
  });

  // Whether the addon is built here or not: it is the reason that differs.
  test.skipIf(noCudaReason === null)("ends with one line where CUDA is asked for and there is none", async () => {
    expect(noCudaReason).toMatch(/^(the CUDA addon is not built; run `bun run build:cuda` on a machine with nvcc|no NVIDIA d.+|the NVIDIA driver .+); use --backend wasm, or auto$/);
    expect(await outcome("serve", "models/demo", "--backend", "cuda")).toEqual({ code: 1, stdout: "", stderr: `error: ${noCudaReason}\n` });
  });

  test("generates to standard output", async () => {
    const asked = ["generate", "models/demo", ...onWasm, "Who are you?", "--max-tokens", "20"];
    const { code, stdout } = await outcome(...asked);
    expect([code, stdout]).toEqual([0, "I am a very small language model. Adapters teach me new tasks.\n"]);
  });

  test("continues the prompt as it is with --raw", async () => {
    const { code, stdout } = await outcome("generate", "models/demo", ...onWasm, "--raw", "One day a cat", "--max-tokens", "8");
    expect(code).toBe(0);
    expect(stdout.trim().length).toBeGreaterThan(0);
  });

  test("generates with an adapter", async () => {
    const flags = ["--lora", "sql", "--lora-dir", "models/demo/adapters/sql"];
    const { code, stdout } = await outcome("generate", "models/demo", ...onWasm, ...flags, "Write SQL: How many products have price greater than 510?");
    expect(code).toBe(0);
    expect(stdout).toStartWith("SELECT COUNT(*) FROM products");
  });

  test.each(["models/demo/adapters/sql/", "models/demo/adapters/summarize-nemo/summarize.nemo"])("generates with the adapter at %s", async (path) => {
    const flags = ["--lora", path, "--max-tokens", "1", "--verbose"];
    const { code, stderr } = await outcome("generate", "models/demo", ...onWasm, ...flags, "Write SQL: How many users?");
    expect([code, /^adapter +(.+)$/m.exec(stderr)?.[1]]).toEqual([0, path.includes("nemo") ? "summarize" : "sql"]);
  });

  test("tells with --verbose what answered, beside the answer", async () => {
    const flags = ["--lora", "sql", "--lora-dir", "models/demo/adapters/sql", "--max-tokens", "1", "--verbose"];
    const { code, stdout, stderr } = await outcome("generate", "models/demo", ...onWasm, ...flags, "Write SQL: How many users?");
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^\S+\n$/) });
    expect(stderr.split("\n").map((line) => line.slice(0, 10).trim())).toEqual([
      "model", "backend", "adapter", "digest", "format", "modules", "rank", "scale", "numbers", "tokens", "",
    ]);
    expect(stderr).toMatch(/^digest +[0-9a-f]{64}$/m);
  });
});

describe("lorikeet adapters inspect", () => {
  test.each([
    [["models/demo/adapters/sql", "--model", "models/demo", ...onWasm], 0, /^models\/demo\/adapters\/sql\n  format    PEFT\n[^]+\n  served    yes\n  digest    [0-9a-f]{64}\n/],
    [["models/demo/adapters/summarize-nemo"], 0, /format    NeMo 1\.x\n[^]+problem   none of the files' own; --model DIR tells whether they fit a base\n$/],
    [["models/demo/adapters/sql", "--model", "test/fixtures/peft/base_llama", ...onWasm], 1, /\n  served    no: .+\n$/],
    [["test/fixtures/peft/torch/evil.ckpt", "--json"], 1, /"code": "adapter_invalid"/],
  ])("%p prints and exits with what came of it", async (argv, code, stdout) => {
    expect(await outcome("adapters", "inspect", ...argv)).toEqual({ code, stdout: expect.stringMatching(stdout), stderr: "" });
  });

  test("needs a path", async () => {
    expect(await outcome("adapters", "inspect")).toMatchObject({ code: 2, stderr: "error: missing required argument 'path'; see lorikeet --help\n" });
    expect(await outcome("adapters")).toMatchObject({ code: 2, stderr: "error: name a command: serve, generate, adapters inspect, bench throughput, bench latency, bench serve, bench workloads, bench prepare-dataset\n" });
  });
});

describe("lorikeet serve", () => {
  let child: Child;
  let text: string;

  beforeAll(async () => {
    child = spawn("serve", "models/demo", ...onWasm, "--lora-dir", "models/demo/adapters", "--lora-dir", "test/fixtures/peft/tokens", "--port", "0", "--log-level", "debug");
    text = await bannerOf(child);
  });

  afterAll(() => child.kill("SIGKILL"));

  test("says what it serves, on what, and what it does not serve", () => {
    expect(text).toStartWith(`Lorikeet ${packageJson.version}\n`);
    const reason = noCudaReason === null ? "as asked" : chooseBackend("auto").reason;
    expect(reason.length).toBeGreaterThan(5);
    expect(text).toMatch(/backend {3}wasm: .*\(.+\)\n/);
    expect(text).toContain(`(${reason})\n`);
    expect(text).toMatch(/model {5}demo, up to 1024 tokens per request/);
    expect(text).toMatch(/adapters {2}9: arithmetic, extract-json, pirate, roman, sentiment, sql, summarize, summarize-nemo, translate-fr/);
    expect(text).toContain("not served: tokens: ");
    expect(text).toMatch(/address {3}http:\/\/127\.0\.0\.1:\d+\n/);
  });

  test("prints two commands that work when pasted", async () => {
    const lines = text.split("\n").filter((line) => line.startsWith("  curl "));
    expect(lines.length).toBe(2);
    for (const [i, line] of lines.entries()) {
      const response = await paste(line);
      const answer = (await response.json()) as { readonly choices: readonly [{ readonly message: { readonly content: string } }] };
      expect(response.status).toBe(200);
      const { content } = answer.choices[0].message;
      if (i === 0) expect(content).toStartWith("One day ");
      else expect(content).not.toContain("I do not know this task yet");
    }
  });

  test("prints a command that works for a model without a tokenizer, too", async () => {
    const bare = spawn("serve", "test/fixtures/peft/base_llama", ...onWasm, "--port", "0");
    try {
      const line = (await bannerOf(bare)).split("\n").find((each) => each.startsWith("  curl "))!;
      expect((await paste(line)).status).toBe(200);
    } finally {
      bare.kill("SIGKILL");
    }
  });

  test("refuses a port that is in use", async () => {
    const port = /127\.0\.0\.1:(\d+)/.exec(text)![1]!;
    const second = await outcome("serve", "models/demo", "--port", port);
    expect(second).toEqual({ code: 2, stdout: "", stderr: `error: 127.0.0.1:${port} is in use; choose another with --port\n` });
  });

  test("ends in order on SIGTERM", async () => {
    child.kill("SIGTERM");
    expect(await child.exited).toBe(0);
    const lines = (await child.stderr.text()).split("\n");
    const logged = lines.splice(0, lines.length - 2).map((line) => JSON.parse(line) as { readonly msg: string });
    // Adapters are read at the start, and not again for the answers, which were of the base and of one adapter.
    const loads = logged.filter(({ msg }) => msg === "adapter loaded");
    expect(loads).toHaveLength(9);
    expect(loads[0]).toMatchObject({ adapter: "arithmetic", digest: expect.any(String), numModules: 42, dtypes: ["F16"], warnings: [] });
    expect(logged.filter(({ msg }) => msg === "answered")).toMatchObject([
      { model: "demo", adapter: null, requestId: expect.any(String), timeline: [{ queue_ms: expect.any(Number) }] },
      { model: "arithmetic", adapter: "arithmetic", error: null },
    ]);
    expect(lines).toEqual(["stopping: running requests have 30 s to end; signal again to stop now", ""]);
  });
});
