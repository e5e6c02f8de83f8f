/** Adapters of `lora_dir` that are elsewhere: what the start asks of them, and what their first requests do. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { openRuntime } from "../../src/runtime/open-runtime.ts";
import { banner } from "../../src/serve.ts";
import { DEMO, readDemoGolden, startDemo } from "../helpers/demo-server.ts";
import { FakeHub, StandIn } from "../helpers/stand-in.ts";
import { rejectionOf } from "../helpers/thrown.ts";
import { until } from "../helpers/until.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const ADMIN = "admin-canary";
const NAMES = ["HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] as const;
const before = NAMES.map((name) => process.env[name]);
let hub: FakeHub;
let cache = "";

const filesOf = (adapter: string) =>
  Object.fromEntries(["adapter_config.json", "adapter_model.safetensors"].map((name) => [name, new Uint8Array(readFileSync(join(DEMO, "adapters", adapter, name)))]));
const golden = (adapter: string) => readDemoGolden([adapter]).find((each) => each.adapter === adapter && !each.raw)!;

beforeAll(async () => {
  hub = await FakeHub.start();
  for (const adapter of ["sql", "roman"]) hub.repositories.set(`team/${adapter}`, { commit: COMMIT, files: filesOf(adapter) });
  cache = mkdtempSync(join(tmpdir(), "lorikeet-first-use-"));
  Object.assign(process.env, { HF_ENDPOINT: hub.api.origin, HF_HUB_CACHE: cache });
});
afterAll(async () => {
  await hub[Symbol.asyncDispose]();
  rmSync(cache, { recursive: true });
  for (const [i, name] of NAMES.entries()) {
    if (before[i] === undefined) delete process.env[name];
    else process.env[name] = before[i];
  }
});

const open = (loraDir: readonly string[], more: object = {}) =>
  openRuntime(resolveConfig(givenOptions({ model: DEMO, threads: 1, backend: "wasm", ...more, loraConfig: { loraDir, ...("loraConfig" in more ? (more.loraConfig as object) : {}) } })).config);

interface Card {
  readonly id: string;
  readonly [field: string]: unknown;
}

async function serve(loraDir: readonly string[]) {
  const server = await startDemo({ loraConfig: { loraDir }, sourceHost: [hub.storage.origin], adminKey: [ADMIN] });
  const card = async (name: string, key?: string): Promise<Card> => {
    const response = await fetch(`${server.url}/v1/adapters`, { headers: key === undefined ? {} : { authorization: `Bearer ${key}` } });
    return ((await response.json()) as { data: Card[] }).data.find(({ id }) => id === name)!;
  };
  const ask = (adapter: string, as = adapter) => server.post("/v1/completions", { model: as, prompt: golden(adapter).prompt_token_ids, temperature: 0, max_tokens: 64 });
  return { ...server, card, ask, [Symbol.asyncDispose]: () => server.stop() };
}

describe("a server with adapters on a hub", () => {
  test("asks nobody at its start, and fetches each with its first request, which is answered", async () => {
    await using server = await serve(["sql=team/sql@main", "team/roman", join(DEMO, "adapters/pirate")]);
    expect(hub.api.paths).toEqual([]);
    const shown = banner(resolveConfig(givenOptions({ model: DEMO }, "server")).config, server.running);
    expect(shown).toContain("  adapters  3: sql, roman, pirate\n            downloaded at their first use: sql from team/sql@main, roman from team/roman\n");
    // What is printed to be tried answers at once.
    expect(shown).toContain('"model":"pirate"');
    expect(await server.card("sql")).toMatchObject({ state: "registered", tier: "source", digest: null });

    const release = Promise.withResolvers<void>();
    hub.api.fault = (asked, response, body) => {
      if (!asked.path.includes("/resolve/") || !asked.path.includes("team/sql") || !asked.path.endsWith(".safetensors")) return false;
      // Half of it, and the rest when the test has looked.
      response.writeHead(200, { "content-length": String(body!.length) });
      response.write(body!.subarray(0, body!.length >> 1));
      void release.promise.then(() => response.end(body!.subarray(body!.length >> 1)));
      return true;
    };
    const answer = server.ask("sql");
    const numBytes = hub.repositories.get("team/sql")!.files["adapter_model.safetensors"]!.length;
    await until(async () => ((await server.card("sql"))["downloaded_bytes"] as number) > numBytes / 3, 30_000);
    expect(await server.card("sql")).toMatchObject({ state: "downloading", tier: "source", active_requests: 1, download_bytes: expect.any(Number) });
    // Everybody else is served meanwhile.
    expect(((await (await server.ask("pirate")).json()) as { choices: { text: string }[] }).choices[0]!.text).toBe(golden("pirate").text);
    release.resolve();
    const response = await answer;
    expect(((await response.json()) as { choices: { text: string }[] }).choices[0]!.text).toBe(golden("sql").text);
    const card = await server.card("sql", ADMIN);
    expect(card).toMatchObject({ state: "device", digest: response.headers.get("x-lorikeet-adapter-digest"), origin: `team/sql@${COMMIT}` });
    expect(await server.card("sql")).not.toHaveProperty("origin");
    expect(hub.api.paths.some((path) => path.includes("roman"))).toBe(false);
  });

  test("tells clients that one cannot be had, the administrator why, and goes on", async () => {
    await using server = await serve(["secret=team/secret", "sql=team/sql"]);
    const refused = await server.ask("sql", "secret");
    expect({ status: refused.status, body: await refused.json() }).toMatchObject({ status: 400, body: { error: { code: "adapter_invalid", message: "adapter secret cannot be had from its source; the server's log says why" } } });
    const loading = await fetch(`${server.url}/v1/load_lora_adapter`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${ADMIN}` },
      body: JSON.stringify({ lora_name: "secret", lora_path: "team/secret", load_inplace: true }),
    });
    expect(await loading.text()).toMatch(/team\/secret is not a path on this machine; as a repository: team\/secret is not on .+ or is private/);
    expect(JSON.stringify(await server.card("secret"))).not.toContain("team/secret");
    expect((await server.ask("sql")).status).toBe(200);

    hub.api.fault = (_, response) => (response.writeHead(503, { "retry-after": "600" }).end(), true);
    await using other = await serve(["roman=team/roman@v1"]);
    const unavailable = await other.ask("roman");
    expect([unavailable.status, unavailable.headers.get("retry-after")]).toEqual([503, "30"]);
    expect(await unavailable.json()).toMatchObject({ error: { code: "source_unavailable", message: "adapter roman cannot be downloaded now; try again later" } });
    hub.api.fault = null;
  });
});

describe("the start", () => {
  test.each<[string, readonly string[], RegExp]>([
    ["a host that is not allowed", ["fr=https://models.example/fr"], /https:\/\/models\.example is not a host that may be downloaded from; add it with --source-host/],
    ["a spelling that means nothing", ["s3://bucket"], /is not s3:\/\/BUCKET\/FOLDER/],
    ["a name that is none", ["fr!=team/sql"], /would be named "fr!", which is no adapter name/],
    ["two sources of one name", ["x=team/sql", "x=team/roman"], /two adapters are named x/],
    ["a source and a directory of one name", ["sql=team/sql", join(DEMO, "adapters/sql")], /two adapters are named sql/],
  ])("refuses %s, and asks nobody", async (_, loraDir, message) => {
    const asked = hub.api.asked.length;
    expect(await rejectionOf(open(loraDir))).toMatchObject({ message: expect.stringMatching(message) });
    expect(hub.api.asked.length).toBe(asked);
  });

  test("fetches and reads all of them where lora_fetch says so, or says what is wrong", async () => {
    const { runtime, served } = await open(["team/sql"], { loraConfig: { loraFetch: "start" } });
    expect(served).toMatchObject([{ name: "sql", isElsewhere: false, origin: `team/sql@${COMMIT}` }]);
    expect(runtime.adapters()).toMatchObject([{ name: "sql", state: "host" }]);
    await runtime.close(0);
    expect(await rejectionOf(open(["team/none"], { loraConfig: { loraFetch: "start" } }))).toMatchObject({ errorCode: "source_refused" });
  });

  test("of an adapter on the web asks nothing either", async () => {
    const files = filesOf("sql");
    await using web = await StandIn.start((path) => files[path.split("/").at(-1)!] ?? null);
    const { runtime } = await open([`${web.origin}/a/sql`], { sourceHost: [web.origin] });
    expect(web.asked).toEqual([]);
    expect(runtime.adapters()).toMatchObject([{ name: "sql", tier: "source", path: `${web.origin}/a/sql` }]);
    await runtime.close(0);
  });
});
