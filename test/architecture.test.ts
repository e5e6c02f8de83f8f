/**
 * The import table of ARCHITECTURE.md as a test.
 *
 * Imports are read with a regular expression on purpose: Bun's own scanner drops type-only imports, and a
 * type import is an arrow too.
 */
import { describe, expect, test } from "bun:test";
import { Glob } from "bun";
import { dirname, join, relative } from "node:path";

const SRC = join(import.meta.dir, "../src");

/** Folders that each folder may import from, itself aside. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  formats: ["core"],
  model: ["core", "formats"],
  lora: ["core", "formats", "model"],
  kv: ["core"],
  schedule: ["core", "kv", "lora"],
  backend: ["core", "lora", "model"],
  engine: ["core", "model", "lora", "kv", "schedule", "backend"],
  grammar: ["core", "model"],
  actors: ["core", "model", "lora", "kv", "schedule", "engine", "backend"],
  sources: ["core", "formats"],
  runtime: ["core", "model", "lora", "kv", "schedule", "engine", "backend", "grammar", "actors", "sources"],
  config: ["core"],
  page: [],
  http: ["core", "formats", "model", "runtime", "config", "page"],
  library: ["core", "runtime"],
  bench: ["core", "runtime"],
};

/** Packages with a home, or two. */
const HOMES: Readonly<Record<string, string | readonly string[]>> = {
  xstate: "actors",
  "@mlc-ai/web-xgrammar": "grammar",
  elysia: "http",
  preact: "page",
  uplot: "page",
  "@opentelemetry/api": "http",
  "@opentelemetry/core": "http",
  "@opentelemetry/exporter-trace-otlp-http": "http",
  "@opentelemetry/resources": "http",
  "@opentelemetry/sdk-trace": "http",
  "@huggingface/tokenizers": "model",
  "@huggingface/jinja": "model",
  yaml: ["config", "formats"],
  commander: "config",
  vega: "bench",
  "vega-lite": "bench",
};

/** Files above the folders see everything and are seen by nobody. */
const TOP = "";

interface Arrow {
  readonly from: string;
  readonly file: string;
  readonly target: string;
}

export function importsOf(source: string): string[] {
  const pattern = /(?:^|\n)\s*(?:import|export)\b[^;"']*?\bfrom\s*["']([^"']+)["']|\bimport\s*\(\s*["']([^"']+)["']\s*\)|(?:^|\n)\s*import\s*["']([^"']+)["']/g;
  return [...source.matchAll(pattern)].map((match) => (match[1] ?? match[2] ?? match[3])!);
}

const folderOf = (path: string): string => {
  const [first, ...rest] = path.split("/");
  return rest.length === 0 ? TOP : first!;
};

export function violation({ from, file, target }: Arrow): string | undefined {
  const tail = `${file} imports ${target}`;
  if (!target.startsWith(".")) {
    const name = target.startsWith("@") ? target.split("/").slice(0, 2).join("/") : target.split("/")[0]!;
    const home = HOMES[name];
    const homes = home === undefined ? [from] : [home].flat();
    return homes.includes(from) ? undefined : `${tail}: ${name} belongs to ${homes.join(" and ")}`;
  }
  const path = join(dirname(file), target);
  // Data beside src, such as package.json and the WASM binary, is not an arrow between folders.
  if (path.startsWith("..")) return undefined;
  if (!/\.(ts|tsx|js|html|css)$/.test(target)) return `${tail}: name the file with its extension`;
  const to = folderOf(path);
  if (to === from || from === TOP) return undefined;
  if (to === TOP) return `${tail}: nothing imports the top level`;
  const allowed = MAY_IMPORT[from];
  if (allowed === undefined) return `${file}: folder ${from} is not in the table`;
  return allowed.includes(to) ? undefined : `${tail}: ${from} may not see ${to}`;
}

/** Actors know other actors by their events; only the wiring file sees machines. */
export function actorViolation({ file, target }: Arrow): string | undefined {
  if (!file.startsWith("actors/") || !target.startsWith(".") || file === "actors/system.ts") return undefined;
  const own = file.split("/").slice(0, 2).join("/");
  const path = join(dirname(file), target);
  if (!path.startsWith("actors/") || path.startsWith(`${own}/`) || path.endsWith(".events.ts")) return undefined;
  if (path.split("/").length === 2) return undefined;
  return `${file} imports ${target}: actors share events only`;
}

async function arrows(): Promise<Arrow[]> {
  const found: Arrow[] = [];
  for await (const path of new Glob("**/*.{ts,tsx}").scan(SRC)) {
    const source = await Bun.file(join(SRC, path)).text();
    for (const target of importsOf(source)) found.push({ from: folderOf(path), file: path, target });
  }
  return found;
}

describe("the import table", () => {
  test("holds for every file", async () => {
    const found = await arrows();
    expect(found.length).toBeGreaterThan(100);
    expect(found.flatMap((arrow) => violation(arrow) ?? [])).toEqual([]);
    expect(found.flatMap((arrow) => actorViolation(arrow) ?? [])).toEqual([]);
  });

  test("no file is a hub: none imports, or is imported by, most of the tree", async () => {
    const found = (await arrows()).filter((arrow) => arrow.target.startsWith("."));
    const files = new Set(found.map((arrow) => arrow.file)).size;
    const outgoing = Map.groupBy(found, (arrow) => arrow.file);
    const hubs = [...outgoing].filter(([file, list]) => folderOf(file) !== TOP && list.length > 25);
    expect(hubs.map(([file, list]) => `${file}: ${list.length}`)).toEqual([]);
    const incoming = Map.groupBy(found, (arrow) => relative(".", join(dirname(arrow.file), arrow.target)));
    const seen = [...incoming].filter(([file, list]) => !file.startsWith("core/") && list.length > files / 2);
    expect(seen.map(([file, list]) => `${file}: ${list.length}`)).toEqual([]);
  });

  test.each([
    ["lora", "lora/a.ts", "../http/b.ts", true],
    ["lora", "lora/a.ts", "../core/ids.ts", false],
    ["core", "core/a.ts", "../model/b.ts", true],
    ["schedule", "schedule/a.ts", "xstate", true],
    ["actors", "actors/x/x.machine.ts", "xstate", false],
    ["http", "http/a.ts", "../engine/b.ts", true],
    ["kv", "kv/a.ts", "../core/ids", true],
    ["kv", "kv/a.ts", "../main.ts", true],
    [TOP, "main.ts", "./http/server.ts", false],
  ])("judges %s: %s importing %s as %p", (from, file, target, bad) => {
    expect(violation({ from, file, target }) !== undefined).toBe(bad);
  });

  test("sees type imports, re-exports, side effects and dynamic imports", () => {
    const source = 'import type { A } from "./a.ts";\nexport { b } from "./b.ts";\nimport "./c.ts";\nawait import("./d.ts");';
    expect(importsOf(source)).toEqual(["./a.ts", "./b.ts", "./c.ts", "./d.ts"]);
  });

  test("keeps one actor's machine out of another's", () => {
    const arrow = { from: "actors", file: "actors/host-cache/host-cache.machine.ts" };
    expect(actorViolation({ ...arrow, target: "../adapter-loader/adapter-loader.machine.ts" })).toBeDefined();
    expect(actorViolation({ ...arrow, target: "../adapter-loader/adapter-loader.events.ts" })).toBeUndefined();
  });
});
