/** The command with everything on a hub: downloaded, served, and served again without the network. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEMO, type DemoServer, readDemoGolden, startDemo } from "../helpers/demo-server.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { FakeHub } from "../helpers/stand-in.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const TOKEN = "hf_canary_of_the_token";
const MODEL_FILES = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
const cache = mkdtempSync(join(tmpdir(), "lorikeet-serve-hub-"));
let hub: FakeHub;

const filesOf = (folder: string, names: readonly string[]) => Object.fromEntries(names.map((name) => [name, new Uint8Array(readFileSync(join(folder, name)))]));

beforeAll(async () => {
  hub = await FakeHub.start();
  hub.repositories.set("team/demo", {
    commit: COMMIT,
    files: { ...filesOf(DEMO, MODEL_FILES), "README.md": "x" },
    large: ["model.safetensors"],
  });
  hub.repositories.set("team/sql", { commit: COMMIT, files: filesOf(join(DEMO, "adapters/sql"), ["adapter_config.json", "adapter_model.safetensors"]), large: ["adapter_model.safetensors"] });
});
afterAll(async () => {
  await hub[Symbol.asyncDispose]();
  rmSync(cache, { recursive: true });
});

async function lorikeet(argv: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = Bun.spawn([process.execPath, "src/main.ts", ...argv, "--source-host", hub.storage.origin], {
    cwd: REPOSITORY,
    env: { ...process.env, HF_ENDPOINT: hub.api.origin, HF_HUB_CACHE: cache, HF_TOKEN: TOKEN, ...env },
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const [code, stdout, stderr] = await Promise.all([child.exited, child.stdout.text(), child.stderr.text()]);
  return { code, stdout, stderr };
}

const golden = readDemoGolden(["sql"]).find(({ adapter, raw }) => adapter === "sql" && !raw)!;
const ask = ["generate", "team/demo", golden.prompt, "--backend", "wasm", "--lora", "sql", "--lora-dir", "sql=team/sql@main"];

describe("a model and an adapter on a hub", () => {
  test("are downloaded and answer, with a line per file and no secret", async () => {
    const { code, stdout, stderr } = await lorikeet([...ask, "--verbose"]);
    expect({ code, stdout }).toEqual({ code: 0, stdout: `${golden.text}\n` });
    const lines = stderr.split("\n").filter((line) => line.startsWith("downloaded"));
    expect(lines.map((line) => line.replace(/ \(.+/, "")).toSorted()).toEqual([
      ...MODEL_FILES.map((name) => `downloaded team/demo: ${name}`),
      "downloaded team/sql: adapter_config.json", "downloaded team/sql: adapter_model.safetensors",
    ]);
    expect(stderr).toMatch(/^model +team\/demo$/m);
    expect(stderr).toContain(`origin    team/demo@${COMMIT}`);
    expect(stderr).toContain(`origin    team/sql@${COMMIT}`);
    expect(stdout + stderr).not.toContain(TOKEN);
  });

  test("answer without the network from then on", async () => {
    const asked = hub.api.asked.length;
    expect(await lorikeet(ask, { HF_HUB_OFFLINE: "1" })).toEqual({ code: 0, stdout: `${golden.text}\n`, stderr: "" });
    expect(hub.api.asked.length).toBe(asked);
  });

  test("can be inspected where they are", async () => {
    const { code, stdout } = await lorikeet(["adapters", "inspect", "team/sql", "--model", "team/demo", "--backend", "wasm"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/served    yes/);
  });

  test("that do not exist end the command with one line", async () => {
    expect(await lorikeet(["serve", "team/none"])).toEqual({
      code: 2,
      stdout: "",
      stderr: expect.stringMatching(/^error: team\/none is not a path on this machine; as a repository: team\/none is not on http:\/\/127\.0\.0\.1:\d+, or is private; check its name, and that HF_TOKEN may read it\n$/),
    });
  });
});

describe("the admin key", () => {
  const ADMIN = "admin-canary";
  const before = { ...process.env };
  let server: DemoServer;
  beforeAll(async () => {
    Object.assign(process.env, { HF_ENDPOINT: hub.api.origin, HF_HUB_CACHE: cache, HF_TOKEN: TOKEN });
    server = await startDemo({ sourceHost: [hub.storage.origin], adapterSource: ["hf://team"], adminKey: [ADMIN] });
  });
  afterAll(async () => {
    await server.stop();
    for (const name of ["HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  });
  const load = (body: object, key: string | null = ADMIN) =>
    fetch(`${server.url}/v1/load_lora_adapter`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
      body: JSON.stringify(body),
    });
  const asking = { prompt: golden.prompt_token_ids, temperature: 0, max_tokens: 64 };

  test("loads an adapter of an allowed owner, which then answers under its digest", async () => {
    expect((await load({ lora_name: "fetched", lora_path: "team/sql@main" })).status).toBe(200);
    const response = await server.post("/v1/completions", { ...asking, model: "fetched" });
    expect(((await response.json()) as { choices: { text: string }[] }).choices[0]!.text).toBe(golden.text);
    expect(response.headers.get("x-lorikeet-adapter-digest")).toMatch(/^[0-9a-f]{64}$/);
    const listed = (await (await fetch(`${server.url}/v1/adapters`, { headers: { authorization: `Bearer ${ADMIN}` } })).json()) as { data: { id: string; path?: string }[] };
    expect(listed.data.find(({ id }) => id === "fetched")!.path).toContain(`models--team--sql/snapshots/${COMMIT}`);
  });

  test("is told what is wrong with a source", async () => {
    const response = await load({ lora_name: "none", lora_path: "team/none" });
    expect({ status: response.status, body: await response.json() }).toMatchObject({ status: 400, body: { error: { code: "source_refused", message: expect.stringMatching(/team\/none is not on .+ or is private/) } } });
  });

  test.each<[string, object, string | null]>([
    ["another owner", { lora_name: "x", lora_path: "hf://other/sql" }, ADMIN],
    ["a host that is not allowed", { lora_name: "x", lora_path: "https://169.254.169.254/latest/meta-data" }, ADMIN],
    ["a scheme that is none", { lora_name: "x", lora_path: "file:///etc" }, ADMIN],
    ["nobody's key", { lora_name: "x", lora_path: "team/sql" }, null],
  ])("is needed, and not enough for all: %s is refused, and nothing is asked", async (_, body, key) => {
    const asked = hub.api.asked.length;
    const response = await load(body, key);
    expect([401, 403]).toContain(response.status);
    await response.text();
    expect(hub.api.asked.length).toBe(asked);
  });

  test("is what a plain request does not have: its paths are no sources", async () => {
    const asked = hub.api.asked.length;
    const response = await server.post("/v1/completions", { ...asking, model: "demo", lora_request: { lora_name: "y", lora_int_id: 77, lora_path: "team/sql" } });
    expect(response.status).toBe(403);
    expect(hub.api.asked.length).toBe(asked);
  });
});
