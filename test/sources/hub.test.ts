/** Repositories of a hub: the cache's layout, what is fetched, and every way in which it fails. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { sourceSettings } from "../../src/sources/settings.ts";
import { type SourceMeans, type SourceProgress, Sources } from "../../src/sources/sources.ts";
import { fixtureAdapter } from "../helpers/adapter-files.ts";
import { cutAfter, FakeHub, gitHash, send, sha256 } from "../helpers/stand-in.ts";
import { rejectionOf } from "../helpers/thrown.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const NEXT = "fedcba9876543210fedcba9876543210fedcba98";
const TOKEN = "hf_canary_of_the_token";

const adapterFile = (name: string): Uint8Array => readFileSync(join(fixtureAdapter("attn_r8"), name));
const WEIGHTS = adapterFile("adapter_model.safetensors");
const CONFIG = adapterFile("adapter_config.json");
const adapter = { "adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS };

const folders: string[] = [];
afterAll(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

interface World {
  readonly hub: FakeHub;
  readonly cache: string;
  readonly notes: string[];
  readonly progress: SourceProgress[];
  /** Waits that were asked for; none is waited. */
  readonly waits: number[];
  fetch(text: string, kind?: "model" | "adapter"): ReturnType<Sources["fetch"]>;
  [Symbol.asyncDispose](): Promise<void>;
}

async function world(env: Record<string, string> = {}, means: Partial<SourceMeans> = {}, timeoutS = 30): Promise<World> {
  const hub = await FakeHub.start();
  hub.repositories.set("org/sql", {
    commit: COMMIT,
    files: { ...adapter, "README.md": "hello", "run.py": "evil()", "tokenizer.json": "{}", "optimizer.pt": new Uint8Array(99) },
    large: ["adapter_model.safetensors"],
  });
  const cache = mkdtempSync(join(tmpdir(), "lorikeet-hub-"));
  folders.push(cache);
  const [notes, progress, waits]: [string[], SourceProgress[], number[]] = [[], [], []];
  const variables = { HF_ENDPOINT: hub.api.origin, HF_HUB_CACHE: cache, HF_TOKEN: TOKEN, ...env };
  return {
    hub,
    cache,
    notes,
    progress,
    waits,
    fetch: (text, kind = "adapter") =>
      new Sources(
        sourceSettings(variables, [hub.storage.origin], timeoutS),
        { onNote: (note) => notes.push(note), onProgress: (each) => progress.push(each) },
        { sleep: async (ms) => void waits.push(ms), ...means },
      ).fetch(text, kind),
    [Symbol.asyncDispose]: () => hub[Symbol.asyncDispose](),
  };
}

const resolved = (path: string): boolean => path.includes("/resolve/");

describe("an adapter on a hub", () => {
  test("lies in the hub's own cache layout, under its commit", async () => {
    await using w = await world();
    const { path, origin, name } = await w.fetch("org/sql");
    const folder = join(w.cache, "models--org--sql");
    expect({ path, origin, name }).toEqual({ path: join(folder, "snapshots", COMMIT), origin: `org/sql@${COMMIT}`, name: "sql" });
    expect(readFileSync(join(folder, "refs/main"), "utf8")).toBe(COMMIT);
    expect(readdirSync(join(folder, "blobs")).sort()).toEqual([gitHash(CONFIG), sha256(WEIGHTS)].sort());
    expect(readlinkSync(join(path, "adapter_model.safetensors"))).toBe(join("../../blobs", sha256(WEIGHTS)));
    for (const [file, bytes] of Object.entries(adapter)) expect(readFileSync(join(path, file))).toEqual(Buffer.from(bytes));
  });

  test("is asked for by its revision, and nothing but what is read is fetched", async () => {
    await using w = await world();
    await w.fetch("org/sql@v1");
    expect(w.hub.api.paths.toSorted()).toEqual([
      "/api/models/org/sql/revision/v1?blobs=true",
      `/org/sql/resolve/${COMMIT}/adapter_config.json`,
      `/org/sql/resolve/${COMMIT}/adapter_model.safetensors`,
    ]);
    expect(readdirSync(join(w.cache, "models--org--sql/snapshots", COMMIT)).sort()).toEqual(Object.keys(adapter));
    expect(readFileSync(join(w.cache, "models--org--sql/refs/v1"), "utf8")).toBe(COMMIT);
  });

  test("sends the token to the hub, and never to its storage", async () => {
    await using w = await world();
    await w.fetch("org/sql");
    expect(new Set(w.hub.api.asked.map(({ headers }) => headers.authorization))).toEqual(new Set([`Bearer ${TOKEN}`]));
    expect(w.hub.storage.asked.length).toBe(1);
    expect(JSON.stringify(w.hub.storage.asked)).not.toContain(TOKEN);
  });

  test("in a folder of its repository keeps that folder", async () => {
    await using w = await world();
    w.hub.repositories.set("org/many", { commit: COMMIT, files: { "fr/adapter_config.json": CONFIG, "fr/adapter_model.safetensors": WEIGHTS, "adapter_config.json": "{}" } });
    const { path, name } = await w.fetch("hf://org/many/fr@main");
    expect({ path, name }).toEqual({ path: join(w.cache, "models--org--many/snapshots", COMMIT, "fr"), name: "fr" });
    expect(readdirSync(path).sort()).toEqual(Object.keys(adapter));
  });

  test("that was fetched before is asked for once more, and not fetched", async () => {
    await using w = await world();
    await w.fetch("org/sql");
    w.hub.api.asked.length = 0;
    const { origin } = await w.fetch("org/sql");
    expect(origin).toBe(`org/sql@${COMMIT}`);
    expect(w.hub.api.paths).toEqual(["/api/models/org/sql/revision/main?blobs=true"]);
  });

  test("moves on with its branch; what did not change is shared", async () => {
    await using w = await world();
    const first = await w.fetch("org/sql");
    w.hub.repositories.set("org/sql", { commit: NEXT, files: { ...adapter, "adapter_config.json": `${new TextDecoder().decode(CONFIG)} ` }, large: ["adapter_model.safetensors"] });
    w.hub.api.asked.length = 0;
    const second = await w.fetch("org/sql");
    expect([first.origin, second.origin]).toEqual([`org/sql@${COMMIT}`, `org/sql@${NEXT}`]);
    expect(w.hub.api.paths.filter(resolved)).toEqual([`/org/sql/resolve/${NEXT}/adapter_config.json`]);
    expect(existsSync(join(first.path, "adapter_config.json"))).toBe(true);
  });

  test("named by its commit needs no network once it is there", async () => {
    await using w = await world();
    await w.fetch("org/sql");
    w.hub.api.asked.length = 0;
    expect((await w.fetch(`org/sql@${COMMIT}`)).origin).toBe(`org/sql@${COMMIT}`);
    expect(w.hub.api.asked).toEqual([]);
    expect(readdirSync(join(w.cache, "models--org--sql/refs"))).toEqual(["main"]);
  });

  test("whose bytes in the cache were changed is noticed and read anew", async () => {
    await using w = await world();
    const { path } = await w.fetch("org/sql");
    const blob = join(w.cache, "models--org--sql/blobs", sha256(WEIGHTS));
    for (let at = 0; at < WEIGHTS.length; at += 1000) {
      const damaged = new Uint8Array(WEIGHTS);
      damaged[at]! ^= 1;
      for (const reference of ["org/sql", `org/sql@${COMMIT}`]) {
        writeFileSync(blob, damaged);
        await w.fetch(reference);
        expect(readFileSync(join(path, "adapter_model.safetensors"))).toEqual(Buffer.from(WEIGHTS));
      }
    }
    expect(w.notes[0]).toBe("adapter_model.safetensors of org/sql in the cache is damaged and is read anew");
  });

  test("without what an adapter needs says what it holds", async () => {
    await using w = await world();
    w.hub.repositories.set("org/none", { commit: COMMIT, files: { "README.md": "x", "model.gguf": "x" } });
    expect(await rejectionOf(w.fetch("org/none"))).toMatchObject({
      errorCode: "source_refused",
      message: "org/none is not a path on this machine; as a repository: org/none holds no adapter that is served: it has no adapter_config.json or a .nemo archive; it holds README.md, model.gguf",
    });
  });
});

describe("a model on a hub", () => {
  const base = fixtureAdapter("base_llama");
  const config = readFileSync(join(base, "config.json"));
  const index = (map: object) => JSON.stringify({ metadata: {}, weight_map: map });

  test("comes with the shards that its index names, several at a time", async () => {
    await using w = await world();
    const shards = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    const contents = Object.fromEntries(shards.map((name, i) => [name, new Uint8Array(5000 + i).fill(i)]));
    const map = Object.fromEntries(shards.map((name, i) => [`t${i}`, name]));
    w.hub.repositories.set("meta/llama", {
      commit: COMMIT,
      files: { "config.json": config, "model.safetensors.index.json": index(map), ...contents, "original/consolidated.pth": "x", "model-00009-of-00003.safetensors": "x", "chat_template.jinja": "x", "modeling.py": "x" },
      large: shards,
    });
    let live = 0;
    let most = 0;
    w.hub.storage.fault = (asked, response, body) => {
      most = Math.max(most, ++live);
      setTimeout(() => (live--, send(asked, response, body!)), 20);
      return true;
    };
    const { path, name } = await w.fetch("meta/llama", "model");
    expect(name).toBe("meta/llama");
    expect(readdirSync(path).sort()).toEqual(["chat_template.jinja", "config.json", ...shards, "model.safetensors.index.json"]);
    expect(most).toBeGreaterThan(1);
    expect(w.progress.filter(({ isDone }) => isDone).map(({ file }) => file).sort()).toEqual(["chat_template.jinja", "config.json", ...shards, "model.safetensors.index.json"]);
  });

  test.each([
    ["that are not there", { t: "model-1.safetensors" }, /does not hold model-1\.safetensors, which its model\.safetensors\.index\.json names/],
    ["elsewhere", { t: "../../etc/passwd.safetensors" }, /weight_map must name 1 to 10000 \.safetensors files of the same folder/],
    ["of none", {}, /weight_map must name/],
  ])("is refused with shards %s", async (_, map, message) => {
    await using w = await world();
    w.hub.repositories.set("meta/llama", { commit: COMMIT, files: { "config.json": config, "model.safetensors.index.json": index(map) } });
    expect(await rejectionOf(w.fetch("meta/llama", "model"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(message) });
  });

  test("that the disk has no room for is refused before a byte of it is read", async () => {
    await using w = await world();
    w.hub.repositories.set("meta/llama", { commit: COMMIT, files: { "config.json": config, "model.safetensors": "x" }, large: ["model.safetensors"] });
    w.hub.said.set("model.safetensors", { size: 10 ** 15 });
    expect(await rejectionOf(w.fetch("meta/llama", "model"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/needs 10000000\d+ bytes under .+ where \d+ are free; make room/) });
    expect(w.hub.api.paths.filter(resolved)).toEqual([]);
  });
});

describe("what is not there, or not for us", () => {
  const answering = (status: number, headers: Record<string, string> = {}) => async () => {
    const w = await world();
    w.hub.failing((_, response) => {
      response.writeHead(status, headers).end("{}");
      return true;
    });
    return w;
  };

  test.each([
    ["404", answering(404, { "x-error-code": "RepoNotFound" }), /org\/sql is not on http:\/\/127\.0\.0\.1:\d+, or is private; check its name, and that HF_TOKEN may read it/],
    ["404 for the revision", answering(404, { "x-error-code": "RevisionNotFound" }), /org\/sql has no revision main; give one that it has/],
    ["401", answering(401), /is not on .+, or is private; check its name, and that HF_TOKEN may read it/],
    ["403 of a gated repository", answering(403, { "x-error-code": "GatedRepo" }), /org\/sql is gated: accept its terms at http:\/\/127\.0\.0\.1:\d+\/org\/sql, with the account of HF_TOKEN/],
    ["400", answering(400), /the hub answers 400 for org\/sql/],
  ])("%s says what to do", async (_, make, message) => {
    await using w = await make();
    const error = await rejectionOf(w.fetch("org/sql"));
    expect(error).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(message) });
    expect(JSON.stringify(error) + String(error)).not.toContain(TOKEN);
  });

  test("a hub that is busy is asked again, as late as it says", async () => {
    await using w = await world();
    const answers: [number, Record<string, string>][] = [[429, { "retry-after": "3" }], [503, {}]];
    w.hub.failing((_, response) => {
      const next = answers.shift();
      if (next !== undefined) response.writeHead(...next).end();
      return next !== undefined;
    });
    expect((await w.fetch("org/sql")).origin).toBe(`org/sql@${COMMIT}`);
    expect(w.waits).toEqual([3000, 1000]);
    answers.push([429, { "retry-after": "3600" }]);
    expect((await w.fetch("org/sql")).origin).toBe(`org/sql@${COMMIT}`);
    expect(w.notes).toEqual([`org/sql cannot be asked (the hub answers 429 for org/sql; try again later); serving ${COMMIT} of the cache`]);
  });

  test("a listing without sizes and hashes is completed by the tree", async () => {
    await using w = await world();
    const tree = Object.entries(adapter).map(([path, bytes]) => ({ type: "file", path, size: bytes.length, oid: gitHash(bytes), ...(path.endsWith("safetensors") ? { lfs: { oid: sha256(bytes), size: bytes.length } } : {}) }));
    w.hub.failing(({ path }, response) => {
      if (path.includes("/revision/")) return response.end(JSON.stringify({ sha: COMMIT, siblings: Object.keys(adapter).map((rfilename) => ({ rfilename })) })), true;
      return path.includes(`/tree/${COMMIT}`) && (response.end(JSON.stringify([{ type: "directory", path: "x" }, ...tree])), true);
    });
    const { path } = await w.fetch("org/sql");
    expect(readFileSync(join(path, "adapter_model.safetensors"))).toEqual(Buffer.from(WEIGHTS));
    expect(readlinkSync(join(path, "adapter_config.json"))).toEndWith(gitHash(CONFIG));
  });

  test("a token that is missing is told of", async () => {
    await using w = await world({ HF_TOKEN: "" });
    w.hub.failing((_, response) => (response.writeHead(401).end(), true));
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ message: expect.stringMatching(/set HF_TOKEN where it is private$/) });
    expect(w.hub.api.asked[0]!.headers.authorization).toBeUndefined();
  });

  test("a hub that is away is told of, or does without where the cache has what it said last", async () => {
    await using w = await world();
    const before = await rejectionOf((await world({ HF_ENDPOINT: "http://127.0.0.1:9" })).fetch("org/sql"));
    expect(before).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/org\/sql cannot be reached \(\w+\); check the network/) });
    await w.fetch("org/sql");
    w.hub.failing((_, response) => (response.destroy(), true));
    expect((await w.fetch("org/sql")).origin).toBe(`org/sql@${COMMIT}`);
    expect(w.notes).toEqual([expect.stringMatching(new RegExp(`^org/sql cannot be asked \\(.+\\); serving ${COMMIT} of the cache$`))]);
  });

  test("HF_HUB_OFFLINE asks nobody: what is whole in the cache, or an error", async () => {
    await using w = await world();
    await w.fetch("org/sql");
    w.hub.api.asked.length = 0;
    const offline = (cache: string) => new Sources(sourceSettings({ HF_ENDPOINT: w.hub.api.origin, HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "1" }, [], 30), { onNote: () => undefined, onProgress: () => undefined }).fetch("org/sql", "adapter");
    expect((await offline(w.cache)).origin).toBe(`org/sql@${COMMIT}`);
    rmSync(join(w.cache, "models--org--sql/blobs", sha256(WEIGHTS)));
    expect(await rejectionOf(offline(w.cache))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/org\/sql@main is not in the cache, and HF_HUB_OFFLINE is set/) });
    expect(w.hub.api.asked).toEqual([]);
  });

  test.each([
    ["no JSON", "<html>"],
    ["no commit", '{"siblings":[]}'],
    ["a branch for a commit", '{"sha":"../../x","siblings":[]}'],
    ["no hashes", JSON.stringify({ sha: COMMIT, siblings: [{ rfilename: "adapter_config.json", size: 3 }] })],
    ["a hash that is a path", JSON.stringify({ sha: COMMIT, siblings: [{ rfilename: "adapter_config.json", size: 3, blobId: `../${"a".repeat(37)}` }] })],
  ])("a listing with %s is refused", async (_, text) => {
    await using w = await world();
    w.hub.failing((asked, response) => asked.path.startsWith("/api/") && (response.writeHead(200).end(text), true));
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/lists org\/sql in a form that cannot be read/) });
  });
});

describe("a download", () => {
  let current: World;
  /** Faults of the storage, one per request; then it works. */
  const failing = async (faults: readonly ((asked: Parameters<typeof cutAfter>[1], response: Parameters<typeof cutAfter>[2], body: Uint8Array) => void)[], means: Partial<SourceMeans> = {}, timeoutS = 30) => {
    const w = await world({}, means, timeoutS);
    current = w;
    const left = [...faults];
    w.hub.storage.fault = (asked, response, body) => {
      const fault = left.shift();
      fault?.(asked, response, body!);
      return fault !== undefined;
    };
    return w;
  };
  const parts = (w: World): string[] => readdirSync(join(w.cache, "models--org--sql/blobs")).filter((name) => name.includes("part"));
  const ranges = (w: World) => w.hub.storage.asked.map(({ headers }) => headers.range ?? null);
  const isRight = async (w: World) => expect(readFileSync(join((await w.fetch("org/sql")).path, "adapter_model.safetensors"))).toEqual(Buffer.from(WEIGHTS));
  const cut = (numBytes: number) => (asked: Parameters<typeof cutAfter>[1], response: Parameters<typeof cutAfter>[2], body: Uint8Array) =>
    cutAfter(numBytes, asked, response, body, (total) => current.progress.some(({ file, numBytes: seen }) => file === "adapter_model.safetensors" && seen >= total));
  const status = (code: number, headers: Record<string, string> = {}) => (_: unknown, response: Parameters<typeof cutAfter>[2]) => void response.writeHead(code, headers).end("x");

  test("that is cut goes on where it was", async () => {
    await using w = await failing([cut(1000), cut(500)]);
    await isRight(w);
    expect(ranges(w)).toEqual([null, "bytes=1000-", "bytes=1500-"]);
    expect(parts(w)).toEqual([]);
  });

  test("that failed goes on in another process, from the bytes that were kept", async () => {
    await using w = await failing([cut(1000), ...Array.from({ length: 5 }, () => status(503))]);
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/adapter_model\.safetensors could not be read: the server answered 503 in 5 attempts; try again, what was read is kept/) });
    expect(parts(w).length).toBe(1);
    w.hub.storage.asked.length = 0;
    w.hub.storage.fault = null;
    await isRight(w);
    expect(ranges(w)).toEqual(["bytes=1000-"]);
    expect(parts(w)).toEqual([]);
  });

  test("of a process that was killed is taken over, one of a process that lives is not", async () => {
    await using w = await failing([cut(1000), ...Array.from({ length: 5 }, () => status(503))]);
    await rejectionOf(w.fetch("org/sql"));
    const blobs = join(w.cache, "models--org--sql/blobs");
    const host = sha256(new TextEncoder().encode(hostname())).slice(0, 8);
    const dead = Bun.spawnSync(["true"]).pid;
    const move = (to: string) => renameSync(join(blobs, parts(w)[0]!), join(blobs, `${sha256(WEIGHTS)}.${to}-00000000.lorikeet-part`));
    w.hub.storage.fault = null;
    for (const [owner, range] of [[`${host}-${process.pid}`, null], [`ffffffff-${dead}`, null], [`${host}-${dead}`, "bytes=1000-"]] as const) {
      move(owner);
      w.hub.storage.asked.length = 0;
      rmSync(join(blobs, sha256(WEIGHTS)), { force: true });
      await isRight(w);
      expect(ranges(w)).toEqual([range]);
    }
    expect(parts(w)).toEqual([]);
  });

  test("that nobody took up for a week is removed", async () => {
    await using w = await failing([]);
    const blobs = join(w.cache, "models--org--sql/blobs");
    mkdirSync(blobs, { recursive: true });
    const [old, recent] = ["a", "b"].map((key) => join(blobs, `${key}.left.lorikeet-part`)) as [string, string];
    for (const path of [old, recent]) writeFileSync(path, "x");
    utimesSync(old, 0, 0);
    await isRight(w);
    expect(parts(w)).toEqual(["b.left.lorikeet-part"]);
  });

  test("from a server without ranges starts again, whole", async () => {
    const whole = (_: unknown, response: Parameters<typeof cutAfter>[2], body: Uint8Array) => void response.writeHead(200, { "content-length": String(body.length) }).end(body);
    await using w = await failing([cut(1000), whole]);
    await isRight(w);
  });

  test.each([
    ["another range than was asked for", (_: unknown, response: Parameters<typeof cutAfter>[2], body: Uint8Array) => void response.writeHead(206, { "content-range": `bytes 5-${body.length - 1}/${body.length}` }).end(body.subarray(5))],
    ["416", status(416)],
  ])("that gets %s starts again", async (_, fault) => {
    await using w = await failing([cut(1000), fault]);
    await isRight(w);
    expect(ranges(w)).toEqual([null, "bytes=1000-", null]);
    // At once: nothing of that answer was kept.
    expect(w.waits).toEqual([500, 0]);
  });

  test("waits as long as a busy server says, and longer each time where it says nothing", async () => {
    await using w = await failing([status(429, { "retry-after": "7" }), status(503), status(500)]);
    await isRight(w);
    expect(w.waits).toEqual([7000, 1000, 2000]);
  });

  test("does not wait for ever because a server says so", async () => {
    await using w = await failing([status(429, { "retry-after": "86400" })]);
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/the server asks to wait 86400 s; try again then/) });
  });

  test("of a server that falls silent is taken up again", async () => {
    const silent = (_: unknown, response: Parameters<typeof cutAfter>[2], body: Uint8Array) => void response.writeHead(200, { "content-length": String(body.length) }).write(body.subarray(0, 100));
    await using w = await failing([silent], { limits: { idleMs: 500, maxAttempts: 5, backoffMs: 1, maxWaitMs: 100 } });
    await isRight(w);
    expect(ranges(w)).toEqual([null, "bytes=100-"]);
  });

  test("has a time limit as a whole", async () => {
    const trickle = (_: unknown, response: Parameters<typeof cutAfter>[2], body: Uint8Array) => {
      response.writeHead(200, { "content-length": String(body.length) });
      const timer = setInterval(() => (response.destroyed ? clearInterval(timer) : response.write("x")), 20);
    };
    await using w = await failing([trickle], {}, 0.3);
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/org\/sql took longer than 0\.3 s; raise download_timeout_s/) });
  });

  test("that waits for its server ends with the time limit, not with the wait", async () => {
    await using w = await failing([status(429, { "retry-after": "50" })], { sleep: () => new Promise(() => undefined) }, 1);
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/org\/sql took longer than 1 s/) });
  });

  const wrong = new Uint8Array(WEIGHTS);
  wrong[500]! ^= 255;
  const wrongBytes = (asked: Parameters<typeof cutAfter>[1], response: Parameters<typeof cutAfter>[2]) => send(asked, response, wrong);

  test("of wrong bytes is read once more, and then refused and thrown away", async () => {
    await using once = await failing([wrongBytes]);
    await isRight(once);
    await using twice = await failing([wrongBytes, wrongBytes]);
    expect(await rejectionOf(twice.fetch("org/sql"))).toMatchObject({
      errorCode: "source_refused",
      message: expect.stringMatching(`adapter_model.safetensors has other bytes than its source says: SHA-256 ${sha256(wrong)} and not ${sha256(WEIGHTS)}; it was read twice`),
    });
    expect(existsSync(join(twice.cache, "models--org--sql/snapshots", COMMIT, "adapter_model.safetensors"))).toBe(false);
  });

  test("of more bytes than were said is refused", async () => {
    const longer = (asked: Parameters<typeof cutAfter>[1], response: Parameters<typeof cutAfter>[2], body: Uint8Array) => send(asked, response, Buffer.concat([body, body]));
    await using w = await failing([longer, longer]);
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/has more than the \d+ bytes that its source says/) });
  });

  test("of fewer bytes than were said is given up", async () => {
    const shorter = (asked: Parameters<typeof cutAfter>[1], response: Parameters<typeof cutAfter>[2], body: Uint8Array) => send(asked, response, body.subarray(0, 100));
    await using w = await failing(Array.from({ length: 20 }, () => shorter));
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_unavailable", message: expect.stringMatching(/could not be read: (it was cut at 100 of \d+ bytes|the server has no such range) in 5 attempts/) });
  });

  test("of a file beyond the limit is refused before it starts", async () => {
    await using w = await world();
    w.hub.said.set("adapter_model.safetensors", { size: 2 * 2 ** 30 + 1 });
    expect(await rejectionOf(w.fetch("org/sql"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/adapter_model\.safetensors has 2147483649 bytes; at most 2147483648 are read/) });
    expect(w.hub.storage.asked).toEqual([]);
  });

  test("of two processes at once is one content, whole", async () => {
    await using w = await failing([cut(900)]);
    const [one, two] = await Promise.all([w.fetch("org/sql"), w.fetch("org/sql")]);
    expect(one).toEqual(two);
    await isRight(w);
    expect(parts(w)).toEqual([]);
  });
});
