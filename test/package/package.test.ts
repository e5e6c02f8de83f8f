/** The package as its users get it: packed, added to an empty project, run and type-checked there. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { platformPackages } from "../../scripts/bun.mjs";
import { ADDON } from "../../scripts/build-cuda.mjs";
import { packCuda } from "../../scripts/pack-cuda.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const folder = realpathSync(mkdtempSync(join(tmpdir(), "lorikeet-package-")));
const project = join(folder, "project");
const bun = process.execPath;
const DEADLINE_MS = 60_000;
afterAll(() => rmSync(folder, { recursive: true }));

async function run(command: readonly string[], env: Readonly<Record<string, string | undefined>> = {}, cwd = project) {
  const child = Bun.spawn([...command], { cwd, env: { ...process.env, NO_COLOR: "1", ...env }, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

/** @returns what it printed */
async function good(...given: Parameters<typeof run>): Promise<string> {
  const { code, stdout, stderr } = await run(...given);
  expect({ code, stderr: code === 0 ? "" : stdout + stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

const PROGRAM = `
import { LLM, LoRARequest, LorikeetError, type LLMOptions, type RequestOutput, type SamplingParams } from "lorikeet";
import { openaiRoutes, type MountOptions } from "lorikeet/http";

const model = "node_modules/lorikeet/models/demo";
const options: LLMOptions = { model, backend: "wasm", loraConfig: { loraDir: [model + "/adapters/sql"] } };
const params: SamplingParams = { maxTokens: 64 };
await using llm = new LLM(options);
const messages = [{ role: "user", content: "Write SQL: How many products have price greater than 510?" }];
const outputs: RequestOutput[] = await llm.generate([{ messages }, { messages }], params, { loraRequest: [new LoRARequest("sql", 1), null] });
for (const { text } of outputs) console.log(text);
let text: string = "";
for await (const output of llm.generateAsync({ messages }, params)) text += output.outputs[0].textDiff;
console.log(text === outputs[1]!.text);
const failure: unknown = await llm.generate("x", {}, { loraRequest: new LoRARequest("none", 9) }).catch((thrown: unknown) => thrown);
if (failure instanceof LorikeetError) console.log(failure.errorCode);
const mounted: MountOptions = { prefix: "/llm" };
await using server = Bun.serve({ port: 0, fetch: openaiRoutes(llm, mounted).fetch });
console.log((await fetch(new URL("/llm/health", server.url))).status);
`;
/** Each line is an error to a type checker that was told what the package takes. */
const MISTAKES = `
import { LLM } from "lorikeet";
new LLM({ model: "m", port: 3 });
new LLM({ model: "m", loraConfig: { loraDri: [] } });
new LLM({ model: "m" }).generate("x", { temprature: 1 });
`;

beforeAll(async () => {
  const npm = Bun.which("npm");
  await good(npm === null ? [bun, "pm", "pack", "--destination", folder] : [npm, "pack", "--silent", "--pack-destination", folder], {}, REPOSITORY);
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true, type: "module" }));
  const types = `bun-types@${packageJson.devDependencies["bun-types"]}`;
  await good([bun, "add", "--prefer-offline", "--ignore-scripts", join(folder, `lorikeet-${packageJson.version}.tgz`), types]);
  writeFileSync(join(project, "program.ts"), PROGRAM);
  writeFileSync(join(project, "mistakes.ts"), MISTAKES);
}, DEADLINE_MS);

test("holds what is needed to run, and nothing else", async () => {
  const root = join(project, "node_modules/lorikeet");
  const files = [...new Bun.Glob("**").scanSync({ cwd: root, dot: true })].filter((path) => !/^(src\/|dist\/types\/|\.bun-tag$)/.test(path));
  expect(files.filter((path) => !path.startsWith("models/demo/")).toSorted()).toEqual([
    "LICENSE", "README.md", "bin/lorikeet.mjs", "bin/needs-bun.mjs", "native/wasm/lorikeet.wasm", "package.json", "scripts/bun.mjs",
  ]);
  expect(files).toContain("models/demo/adapters/sql/adapter_model.safetensors");
  const bytes = files.reduce((sum, path) => sum + (path.startsWith("models/") ? 0 : Bun.file(join(root, path)).size), 0);
  expect(bytes).toBeLessThan(200_000);
  expect(Bun.file(join(folder, `lorikeet-${packageJson.version}.tgz`)).size).toBeLessThan(18_000_000);
  expect(JSON.parse(readFileSync(join(root, "package.json"), "utf8"))).not.toHaveProperty("scripts.postinstall");
});

test("answers in a program that has added it", async () => {
  const lines = (await good([bun, "program.ts"])).trimEnd().split("\n");
  expect(lines[0]).toBe("SELECT COUNT(*) FROM products WHERE price > 510;");
  expect(lines.slice(2)).toEqual(["true", "adapter_not_found", "200"]);
}, DEADLINE_MS);

describe("types", () => {
  const compilerOptions = {
    target: "ESNext", lib: ["ESNext"], types: ["bun-types"], noEmit: true,
    strict: true, skipLibCheck: false, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, noUnusedLocals: true,
  };
  const config = (module: object, ...files: string[]) => {
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...compilerOptions, ...module }, files }));
  };
  const tsc = [bun, join(REPOSITORY, "node_modules/typescript/bin/tsc"), "--pretty", "false"];

  test("are right for TypeScript with Node's resolution", async () => {
    config({ module: "NodeNext" }, "program.ts");
    await good(tsc);
  }, DEADLINE_MS);

  test("are right for Bun's checker with a bundler's resolution, and find mistakes", async () => {
    config({ module: "Preserve", moduleResolution: "bundler" }, "program.ts", "mistakes.ts");
    const { code, stdout, stderr } = await run([bun, "check", "--no-pretty", "--all"]);
    expect(code).not.toBe(0);
    const found = [...(stdout + stderr).matchAll(/^(\S+)\((\d+),\d+\): error/gm)].map(([, file, line]) => `${file}:${line}`);
    expect([...new Set(found)].toSorted()).toEqual(["mistakes.ts:3", "mistakes.ts:4", "mistakes.ts:5"]);
  }, DEADLINE_MS);
});

describe("the lorikeet command", () => {
  // `bun run` puts itself on the path as `node`.
  const isBun = (folder: string): boolean => basename(folder).startsWith("bun-node");
  const node = Bun.which("node", { PATH: process.env["PATH"]!.split(delimiter).filter((folder) => !isBun(folder)).join(delimiter) });
  const command = join(project, "node_modules/.bin/lorikeet");
  /** A folder to be the search path, with these programs and the shell's. */
  const path = (name: string, programs: Readonly<Record<string, string>>) => {
    const bin = join(folder, name);
    mkdirSync(bin);
    for (const [program, target] of Object.entries(programs)) symlinkSync(target, join(bin, program));
    return bin;
  };

  test("runs with Bun alone on the search path", async () => {
    // Left by npm, where it runs these tests: Bun then believes that there is a Node.
    const env = { PATH: path("bun-alone", { bun }), NODE: undefined, npm_node_execpath: undefined };
    expect(await good([bun, "x", "--no-install", "lorikeet", "--version"], env)).toBe(`${packageJson.version}\n`);
  });

  test.skipIf(node === null)("runs with Node alone, on the Bun that an earlier start has fetched; arguments, output and exit code are its own", async () => {
    const cache = join(folder, "cache");
    const fetched = join(cache, "lorikeet/node_modules", platformPackages()[0], "bin");
    mkdirSync(fetched, { recursive: true });
    symlinkSync(bun, join(fetched, process.platform === "win32" ? "bun.exe" : "bun"));
    const env = { PATH: path("node-alone", { node: node! }), XDG_CACHE_HOME: cache };
    expect(await good([node!, command, "--version"], env)).toBe(`${packageJson.version}\n`);
    const demo = "node_modules/lorikeet/models/demo";
    const answer = await good([node!, command, "generate", demo, "Write SQL: How many products have price greater than 510?", "--backend", "wasm", "--lora-dir", `${demo}/adapters`, "--lora", "sql"], env);
    expect(answer).toBe("SELECT COUNT(*) FROM products WHERE price > 510;\n");
    const { code, stderr } = await run([node!, command, "serve", "--no-such-option"], env);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("--no-such-option") });
  }, DEADLINE_MS);

  test.skipIf(node === null)("fetches Bun where there is none, by the package manager that is there", async () => {
    const cache = join(folder, "empty-cache");
    const bin = path("stub-npm", { node: node! });
    // In npm's place: says what it was asked for, and fails as it would without a network.
    writeFileSync(join(bin, "npm"), `#!${node}\nconsole.error(process.argv.slice(2).join(" "));\nprocess.exit(1);\n`);
    chmodSync(join(bin, "npm"), 0o755);
    const { code, stderr } = await run([node!, command, "--version"], { PATH: bin, XDG_CACHE_HOME: cache, npm_execpath: undefined });
    expect(code).toBe(1);
    expect(stderr).toContain(`--prefix ${join(cache, "lorikeet")} `);
    expect(stderr).toContain(`${platformPackages()[0]}@${packageJson.engines.bun.slice(2)}`);
    expect(stderr).toContain("error: Bun 1.4.5 or newer was not found and could not be installed");
  });

  test.skipIf(node === null)("is all that Node can use: an import says what the library needs", async () => {
    const { code, stderr } = await run([node!, "-e", 'import("lorikeet").catch((error) => { console.error(error.message); process.exit(3); })']);
    expect({ code, stderr: stderr.trim() }).toEqual({ code: 3, stderr: "lorikeet is a library for Bun; run this program with `bun FILE` (https://bun.sh)" });
  });
});

describe("the CUDA addon", () => {
  const isBuilt = existsSync(ADDON);
  if (!isBuilt) console.warn("the package of the CUDA addon is not tried: the addon is not built");
  const reason = async () => {
    const { stderr } = await run([bun, "x", "--no-install", "lorikeet", "generate", "node_modules/lorikeet/models/demo", "x", "--backend", "cuda"], { LORIKEET_CUDA_ADDON: undefined });
    return stderr;
  };

  test("is named where it is missing", async () => {
    expect(await reason()).toContain(`the CUDA addon is not installed; add the package lorikeet-cuda-${process.platform}-${process.arch}`);
  });

  test.skipIf(!isBuilt)("is found in the package for this platform, which has no install script", async () => {
    await good([bun, "add", "--prefer-offline", "--ignore-scripts", packCuda(folder)]);
    expect(await reason()).not.toMatch(/not installed|could not be loaded|of another version/);
  }, DEADLINE_MS);
});
