/** Everything as one file, which is run where there is nothing else. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { buildExecutable } from "../../scripts/build-executable.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-executable-test-"));
const executable = join(folder, process.platform === "win32" ? "lorikeet.exe" : "lorikeet");
const place = join(folder, "place");
const temporary = join(folder, "tmp");
const DEADLINE_MS = 60_000;

beforeAll(async () => {
  mkdirSync(place);
  mkdirSync(temporary);
  await buildExecutable(executable);
}, DEADLINE_MS);
afterAll(() => rmSync(folder, { recursive: true }));

const start = (...args: string[]) =>
  Bun.spawn([executable, ...args], { cwd: place, env: { TMPDIR: temporary, TMP: temporary, TEMP: temporary }, stdout: "pipe", stderr: "inherit" });

async function addressOf(child: ReturnType<typeof start>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of child.stdout) {
    text += decoder.decode(chunk, { stream: true });
    const found = /address +(\S+)/.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  throw new Error(`it ended with ${text}`);
}

test("serves the demo: adapters, grammars, the page, and no file of its own is left", async () => {
  const child = start("serve", "--port", "0", "--backend", "wasm", "--log-level", "error");
  try {
    const url = await addressOf(child);
    const ask = async (path: string, body: object) =>
      (await fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })).json() as Promise<any>;
    const messages = [{ role: "user", content: "Write SQL: How many products have price greater than 510?" }];
    const answer = await ask("/v1/chat/completions", { model: "sql", messages, temperature: 0 });
    expect(answer.choices[0].message.content).toBe("SELECT COUNT(*) FROM products WHERE price > 510;");
    // The grammar's thread is a program of its own.
    const choice = await ask("/v1/completions", { model: "demo", prompt: "x", max_tokens: 30, guided_choice: ["alpha", "beta"] });
    expect(choice.choices[0].text).toMatch(/^(alpha|beta)$/);
    const page = await (await fetch(url, { headers: { accept: "text/html" } })).text();
    const scripts = [...page.matchAll(/<script[^>]* src="([^"]+)"/g)].map(([, src]) => src!);
    expect(scripts.length).toBeGreaterThan(0);
    for (const src of scripts) expect((await fetch(new URL(src, url))).status).toBe(200);
  } finally {
    child.kill();
    expect(await child.exited).toBe(0);
  }
  expect(readdirSync(temporary)).toEqual([]);
}, DEADLINE_MS);

test("says where it looks for the CUDA addon", async () => {
  const child = Bun.spawn([executable, "generate", join(REPOSITORY, "models/demo"), "x", "--backend", "cuda"], { cwd: place, env: {}, stdout: "ignore", stderr: "pipe" });
  expect(await child.stderr.text()).toContain("lorikeet-cuda.node is not beside this program; put it there, or name it with LORIKEET_CUDA_ADDON");
  expect(await child.exited).toBe(1);
});

test("is the whole command", async () => {
  const child = start("--version");
  expect(await child.stdout.text()).toBe(`${packageJson.version}\n`);
  expect(await child.exited).toBe(0);
});
