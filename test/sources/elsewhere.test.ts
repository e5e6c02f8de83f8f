/** Sources on the web and in S3. */
import { afterAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sourceSettings } from "../../src/sources/settings.ts";
import { Sources } from "../../src/sources/sources.ts";
import { fixtureAdapter } from "../helpers/adapter-files.ts";
import { cutAfter, send, StandIn } from "../helpers/stand-in.ts";
import { rejectionOf } from "../helpers/thrown.ts";

const folders: string[] = [];
afterAll(() => folders.forEach((folder) => rmSync(folder, { recursive: true })));

const WEIGHTS = readFileSync(join(fixtureAdapter("attn_r8"), "adapter_model.safetensors"));
const CONFIG = readFileSync(join(fixtureAdapter("attn_r8"), "adapter_config.json"));
const ARCHIVE = readFileSync(join(fixtureAdapter("nemo"), "megatron_gz.nemo"));
const INDEX = Buffer.from('{"weight_map":{"a":"x-1.safetensors"}}');

async function world(files: Readonly<Record<string, Uint8Array>>, hosts?: readonly string[]) {
  const server = await StandIn.start((path) => files[path] ?? null);
  const cache = mkdtempSync(join(tmpdir(), "lorikeet-web-"));
  folders.push(cache);
  const notes: string[] = [];
  const s3 = { endpoint: server.origin, accessKeyId: "canary-key", secretAccessKey: "canary-secret", region: "us-east-1" };
  const settings = sourceSettings({ LORIKEET_CACHE: cache }, hosts ?? [server.origin], 30);
  const sources = new Sources(settings, { onNote: (note) => notes.push(note), onProgress: () => undefined }, { sleep: async () => undefined, s3 });
  return { server, cache, notes, sources, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

describe("a folder on the web", () => {
  const files = { "/a/sql/adapter_config.json": CONFIG, "/a/sql/adapter_model.safetensors": WEIGHTS, "/a/sql/adapter_model.bin": WEIGHTS, "/a/sql/run.py": CONFIG };

  test("is asked for what an adapter may consist of, and kept", async () => {
    await using w = await world(files);
    const { path, origin, name } = await w.sources.fetch(`${w.server.origin}/a/sql/`, "adapter");
    expect(name).toBe("sql");
    expect(origin).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/a\/sql@[0-9a-f]{64}$/);
    expect(readFileSync(join(path, "adapter_model.safetensors"))).toEqual(WEIGHTS);
    expect(w.server.asked.map(({ method, path: each }) => `${method} ${each}`).toSorted()).toEqual([
      "GET /a/sql/adapter_config.json", "GET /a/sql/adapter_model.safetensors", "HEAD /a/sql/adapter_config.json", "HEAD /a/sql/adapter_model.safetensors",
    ]);
    // Nothing of the URL is a name on the disk.
    expect(readdirSync(join(w.cache, "sources"))).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/)]);
  });

  test("that did not change is not read again", async () => {
    await using w = await world(files);
    w.server.headersOf = () => ({ etag: '"v1"' });
    const first = await w.sources.fetch(`${w.server.origin}/a/sql`, "adapter");
    w.server.asked.length = 0;
    expect(await w.sources.fetch(`${w.server.origin}/a/sql`, "adapter")).toEqual(first);
    expect(w.server.asked.filter(({ method }) => method === "GET")).toEqual([]);
    w.server.headersOf = () => ({ etag: '"v2"' });
    expect((await w.sources.fetch(`${w.server.origin}/a/sql`, "adapter")).origin).not.toBe(first.origin);
  });

  test("of a model has an index, and the shards that it names", async () => {
    await using w = await world({ "/m/config.json": CONFIG, "/m/model.safetensors.index.json": INDEX, "/m/x-1.safetensors": WEIGHTS });
    expect(readdirSync((await w.sources.fetch(`${w.server.origin}/m`, "model")).path).sort()).toEqual(["config.json", "model.safetensors.index.json", "x-1.safetensors"]);
  });

  test("may be an archive", async () => {
    await using w = await world({ "/x/fr.nemo": ARCHIVE });
    const { path, name } = await w.sources.fetch(`${w.server.origin}/x/fr.nemo`, "adapter");
    expect(name).toBe("fr");
    expect(path).toEndWith("/fr.nemo");
    expect(readFileSync(path)).toEqual(ARCHIVE);
  });

  test.each(["repr-digest", "digest"])("is compared with the %s that its server gives", async (header) => {
    await using w = await world({ "/x/fr.nemo": ARCHIVE });
    const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("base64");
    w.server.headersOf = () => ({ [header]: header === "digest" ? `SHA-256=${digest(ARCHIVE)}` : `sha-256=:${digest(ARCHIVE)}:` });
    await w.sources.fetch(`${w.server.origin}/x/fr.nemo`, "adapter");
    rmSync(join(w.cache, "sources"), { recursive: true });
    w.server.headersOf = () => ({ [header]: `sha-256=:${digest(CONFIG)}:` });
    expect(await rejectionOf(w.sources.fetch(`${w.server.origin}/x/fr.nemo`, "adapter"))).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(/other bytes than its source says/) });
  });

  test("that was cut is read again from its start where nothing vouches for the first part", async () => {
    await using w = await world({ "/x/fr.nemo": ARCHIVE });
    let isFirst = true;
    w.server.fault = (asked, response, body) => {
      if (asked.method === "HEAD" || !isFirst) return false;
      isFirst = false;
      cutAfter(100, asked, response, body!);
      return true;
    };
    expect(readFileSync((await w.sources.fetch(`${w.server.origin}/x/fr.nemo`, "adapter")).path)).toEqual(ARCHIVE);
  });

  test("on a host that is not allowed is refused, nothing is asked", async () => {
    await using w = await world(files, ["https://models.example"]);
    expect(await rejectionOf(w.sources.fetch(`${w.server.origin}/a/sql`, "adapter"))).toMatchObject({
      errorCode: "source_refused",
      message: `${w.server.origin} is not a host that may be downloaded from; add it with --source-host where that is meant`,
    });
    expect(w.server.asked).toEqual([]);
  });

  test.each([
    [404, /holds no adapter that is served: it has no adapter_config\.json or a \.nemo archive; it holds nothing/],
    [403, /answers 403 for adapter_config\.json; sources on the web are read without a login/],
    [500, /answers 500; try again later/],
  ])("that answers %d says so", async (status, message) => {
    await using w = await world({});
    w.server.fault = (_, response) => (response.writeHead(status).end(), true);
    expect(await rejectionOf(w.sources.fetch(`${w.server.origin}/a`, "adapter"))).toMatchObject({ message: expect.stringMatching(message) });
  });

  test("redirecting to an address of the machine's own network is not followed", async () => {
    await using w = await world(files);
    await using inner = await StandIn.start(() => CONFIG);
    w.server.fault = (_, response) => (response.writeHead(302, { location: `${inner.origin}/secret` }).end(), true);
    expect(await rejectionOf(w.sources.fetch(`${w.server.origin}/a/sql`, "adapter"))).toMatchObject({ errorCode: "source_refused" });
    expect(inner.asked).toEqual([]);
  });
});

describe("a folder in S3", () => {
  /** Lists and serves one bucket, and takes no request without a signature. */
  const bucket = (w: Awaited<ReturnType<typeof world>>, objects: Readonly<Record<string, Uint8Array>>) => {
    w.server.fault = (asked, response) => {
      const url = new URL(asked.path, w.server.origin);
      const isSigned = asked.headers.authorization?.includes("Credential=canary-key/") === true || url.searchParams.get("X-Amz-Credential")?.startsWith("canary-key/") === true;
      if (!isSigned) return response.writeHead(403).end("<Error><Code>AccessDenied</Code></Error>"), true;
      if (!url.searchParams.has("list-type")) {
        const object = objects[decodeURIComponent(url.pathname).replace("/models/", "")];
        if (object === undefined) response.writeHead(404).end("<Error><Code>NoSuchKey</Code></Error>");
        else send(asked, response, object);
        return true;
      }
      const prefix = url.searchParams.get("prefix") ?? "";
      const keys = Object.keys(objects).filter((key) => key.startsWith(prefix));
      const contents = keys.map((key) => `<Contents><Key>${key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"e${objects[key]!.length}"</ETag><Size>${objects[key]!.length}</Size><StorageClass>STANDARD</StorageClass></Contents>`);
      response.writeHead(200, { "content-type": "application/xml" }).end(
        `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>models</Name><Prefix>${prefix}</Prefix><KeyCount>${keys.length}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>${contents.join("")}</ListBucketResult>`,
      );
      return true;
    };
  };
  const objects = { "team/sql/adapter_config.json": CONFIG, "team/sql/adapter_model.safetensors": WEIGHTS, "team/sql/deep/adapter_config.json": WEIGHTS, "team/sql2/x": CONFIG, "team/fr.nemo": ARCHIVE };

  test("is listed and read by Bun's client and its signatures", async () => {
    await using w = await world({});
    bucket(w, objects);
    const { path, origin, name } = await w.sources.fetch("s3://models/team/sql", "adapter");
    expect({ name, origin }).toEqual({ name: "sql", origin: expect.stringMatching(/^s3:\/\/models\/team\/sql@[0-9a-f]{64}$/) });
    expect(readdirSync(path).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
    expect(readFileSync(join(path, "adapter_model.safetensors"))).toEqual(WEIGHTS);
    w.server.asked.length = 0;
    await w.sources.fetch("s3://models/team/sql/", "adapter");
    expect(w.server.asked.length).toBe(1);
  });

  test("may be an archive", async () => {
    await using w = await world({});
    bucket(w, objects);
    expect(readFileSync((await w.sources.fetch("s3://models/team/fr.nemo", "adapter")).path)).toEqual(ARCHIVE);
  });

  test("that is cut goes on with a new signature", async () => {
    await using w = await world({});
    bucket(w, objects);
    const usual = w.server.fault!;
    let isFirst = true;
    w.server.fault = (asked, response, body) => {
      if (!isFirst || !asked.path.includes("safetensors") || asked.path.includes("list-type")) return usual(asked, response, body);
      isFirst = false;
      cutAfter(64, asked, response, WEIGHTS);
      return true;
    };
    expect(readFileSync(join((await w.sources.fetch("s3://models/team/sql", "adapter")).path, "adapter_model.safetensors"))).toEqual(WEIGHTS);
  });

  test("redirecting elsewhere is not followed", async () => {
    await using w = await world({});
    bucket(w, objects);
    await using inner = await StandIn.start(() => CONFIG);
    const usual = w.server.fault!;
    w.server.fault = (asked, response, body) => (asked.path.includes("list-type") ? usual(asked, response, body) : (response.writeHead(307, { location: `${inner.origin}/x` }).end(), true));
    expect(await rejectionOf(w.sources.fetch("s3://models/team/sql", "adapter"))).toMatchObject({ errorCode: "source_refused" });
    expect(inner.asked).toEqual([]);
  });

  test.each<[string, (w: Awaited<ReturnType<typeof world>>) => void, RegExp]>([
    ["that may not be read", (w) => void (w.server.fault = (_, response) => (response.writeHead(403).end("<Error><Code>AccessDenied</Code><Message>no</Message></Error>"), true)), /s3:\/\/models\/team\/sql cannot be listed \(AccessDenied\); set AWS_ACCESS_KEY_ID/],
    ["whose bucket is none", (w) => void (w.server.fault = (_, response) => (response.writeHead(404).end("<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>"), true)), /s3:\/\/models\/team\/sql does not exist \(NoSuchBucket\)/],
    ["that is empty", (w) => bucket(w, {}), /holds no adapter that is served.+it holds nothing/],
  ])("%s says what to do, and no secret", async (_, prepare, message) => {
    await using w = await world({});
    prepare(w);
    const error = await rejectionOf(w.sources.fetch("s3://models/team/sql", "adapter"));
    expect(error).toMatchObject({ errorCode: "source_refused", message: expect.stringMatching(message) });
    expect(String(error)).not.toMatch(/canary|X-Amz/);
  });

});
