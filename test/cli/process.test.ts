/** The command as a process: start, answers, signals, exit codes. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };

const root = join(import.meta.dir, "../..");

function spawn(...argv: string[]) {
  return Bun.spawn([process.execPath, "src/main.ts", ...argv], { cwd: root, stdout: "pipe", stderr: "pipe", stdin: "ignore" });
}

async function outcome(...argv: string[]) {
  const child = spawn(...argv);
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

describe("lorikeet", () => {
  test("prints its version", async () => {
    expect(await outcome("--version")).toEqual({ code: 0, stdout: `${packageJson.version}\n`, stderr: "" });
  });

  test.each([
    [["serve", "--prt", "1"], 2, "error: unknown option '--prt' (Did you mean --port?); see lorikeet --help\n"],
    [["serve", "no/such/model"], 1, 'error: the model "no/such/model" is not a directory; give one that holds a model\'s files\n'],
    [["serve", "models/demo", "--backend", "cuda"], 1, "error: this build has no CUDA engine; use --backend wasm, or auto\n"],
    [["serve", "models/demo", "--host", "0.0.0.0", "--port", "0"], 2, "error: host 0.0.0.0 can be reached from other machines, and there is no API key; set --api-key or LORIKEET_API_KEY, or pass --allow-no-key\n"],
    [["serve", "models/demo", "--lora-dir", "models"], 2, "error: lora_dir models holds no adapter, and no directory in it does\n"],
    [["serve", "models/demo", "--max-seq-len", "4096"], 2, "error: max_seq_len 4096 is more than the 1024 positions of the model\n"],
    [["generate", "models/demo", "hi", "--temperature", "-1"], 1, "error: --temperature -1 must be a number between 0 and 1000000\n"],
    [["generate", "models/demo", "hi", "--lora", "nope"], 1, 'error: no adapter is known by the name "nope"; the list of models shows those that are\n'],
  ])("%p ends with one line and its exit code", async (argv, code, stderr) => {
    expect(await outcome(...argv)).toEqual({ code, stdout: "", stderr });
  });

  test("generates to standard output", async () => {
    const asked = ["generate", "models/demo", "Who are you?", "--chat", "--max-tokens", "20"];
    const { code, stdout } = await outcome(...asked);
    expect([code, stdout]).toEqual([0, "I am a very small language model. Adapters teach me new tasks.\n"]);
  });

  test("generates with an adapter", async () => {
    const flags = ["--chat", "--lora", "sql", "--lora-dir", "models/demo/adapters/sql"];
    const { code, stdout } = await outcome("generate", "models/demo", ...flags, "Write SQL: How many products have price greater than 510?");
    expect(code).toBe(0);
    expect(stdout).toStartWith("SELECT COUNT(*) FROM products");
  });
});

describe("lorikeet serve", () => {
  let child: Child;
  let text: string;

  beforeAll(async () => {
    child = spawn("serve", "models/demo", "--lora-dir", "models/demo/adapters", "--port", "0");
    text = await bannerOf(child);
  });

  afterAll(() => child.kill("SIGKILL"));

  test("says what it serves, on what, and what it does not serve", () => {
    expect(text).toStartWith(`Lorikeet ${packageJson.version}\n`);
    expect(text).toMatch(/backend {3}wasm: .*\(this build has no CUDA engine\)/);
    expect(text).toMatch(/model {5}demo, up to 1024 tokens per request/);
    expect(text).toMatch(/adapters {2}6: extract-json, roman, sentiment, sql, summarize, translate-fr/);
    for (const name of ["arithmetic", "pirate", "summarize-nemo"]) expect(text).toContain(`not served: ${name}: `);
    expect(text).toMatch(/address {3}http:\/\/127\.0\.0\.1:\d+\n/);
  });

  test("prints two commands that work when pasted", async () => {
    const lines = text.split("\n").filter((line) => line.startsWith("  curl "));
    expect(lines.length).toBe(2);
    for (const [i, line] of lines.entries()) {
      const args = await curlArguments(line);
      const url = args.find((arg) => arg.startsWith("http"))!;
      const body = args[args.indexOf("-d") + 1]!;
      const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
      const answer = (await response.json()) as { readonly choices: readonly [{ readonly message: { readonly content: string } }] };
      expect(response.status).toBe(200);
      const { content } = answer.choices[0].message;
      if (i === 0) expect(content).toStartWith("One day ");
      else expect(content).not.toContain("I do not know this task yet");
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
    expect(await child.stderr.text()).toBe("stopping: running requests have 30 s to end; signal again to stop now\n");
  });
});
