/** The programs of `examples/`, run as a reader would run them. */
import { afterEach, expect, test } from "bun:test";
import { join } from "node:path";
import OpenAI from "openai";

const ROOT = join(import.meta.dir, "..");
const running: Bun.Subprocess[] = [];
const DEADLINE_MS = 60_000;

afterEach(async () => {
  for (const process of running.splice(0)) {
    process.kill();
    await process.exited;
  }
});

function start(name: string, ...args: string[]) {
  const process = Bun.spawn([globalThis.process.execPath, join(ROOT, "examples", name), ...args], {
    cwd: ROOT,
    env: { ...globalThis.process.env, PORT: "0", NO_COLOR: "1" },
    stdout: "pipe",
    stderr: "inherit",
  });
  running.push(process);
  return process;
}

/** All that a program prints, which must end well. */
async function output(name: string, ...args: string[]): Promise<string> {
  const process = start(name, ...args);
  const text = await new Response(process.stdout).text();
  expect(await process.exited).toBe(0);
  return text;
}

/** Where a program that serves says that it listens. */
async function address(name: string): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of start(name).stdout) {
    text += decoder.decode(chunk, { stream: true });
    const found = /listening on (\S+)\n/.exec(text)?.[1];
    if (found !== undefined) return found;
  }
  throw new Error(`${name} ended with: ${text}`);
}

test("per-customer: each is answered by their own adapter, one of them by an adapter that came later", async () => {
  const lines = (await output("per-customer.ts")).trim().split("\n");
  expect(lines).toHaveLength(4);
  expect(lines).toContain("books-and-more: SELECT COUNT(*) FROM products WHERE price > 510;");
  expect(lines).toContain("chez-rosa: Le boulanger ouvre le chapeau devant la forêt souvent.");
  expect(lines.filter((line) => line.startsWith("a visitor: "))).toHaveLength(1);
  expect(lines.at(-1)).toBe("roman-holidays: CLXVI");
}, DEADLINE_MS);

test("elysia-app: the application's own routes, bad bodies refused, and the model's for OpenAI's clients", async () => {
  const url = await address("elysia-app.ts");
  expect(await (await fetch(url)).text()).toBe("the application's own page");
  const ask = (body: object) => fetch(`${url}sql`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  expect(await (await ask({ question: "How many products have price greater than 510?" })).json()).toEqual({
    sql: "SELECT COUNT(*) FROM products WHERE price > 510;",
  });
  expect((await ask({ question: "" })).status).toBe(422);
  const client = new OpenAI({ baseURL: `${url}llm/v1`, apiKey: "none" });
  const messages = [{ role: "user" as const, content: "Roman numeral: 166" }];
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model: "roman", temperature: 0, stream: true, messages })) text += chunk.choices[0]?.delta.content ?? "";
  expect(text).toBe("CLXVI");
}, DEADLINE_MS);

test("stream-to-page: the page, and the answer in pieces", async () => {
  const url = await address("stream-to-page.ts");
  expect(await (await fetch(url)).text()).toContain("new EventSource");
  const events = (await (await fetch(`${url}stream?prompt=Once upon a time`)).text()).trim().split("\n\n");
  expect(events.length).toBeGreaterThan(10);
  expect(events.at(-1)).toBe("event: end\ndata:");
  const text = events.slice(0, -1).map((event) => JSON.parse(event.replace(/^data: /, "")) as string).join("");
  expect(text).toMatch(/^\W*there/);
  expect((await fetch(`${url}stream`)).status).toBe(400);
}, DEADLINE_MS);

test("evaluate-adapters: a table in which every adapter knows its task and the base model knows none", async () => {
  const text = await output("evaluate-adapters.ts", "3");
  const rows = text.split("\n").map((line) => /│\s*([a-z-]+)\s*│\s*(\d+)\s*│\s*([\d.]+)\s*│\s*([\d.]+)\s*│/.exec(line)?.slice(1)).filter((row) => row !== undefined);
  expect(rows.map(([adapter]) => adapter)).toEqual(["arithmetic", "extract-json", "pirate", "roman", "sentiment", "sql", "summarize", "translate-fr"]);
  for (const [, count, accuracy, base] of rows) expect([count, accuracy, base]).toEqual(["3", "1", "0"]);
}, DEADLINE_MS);
