import { describe, expect, test } from "bun:test";
import { bytes, downloadProgress } from "../../src/download-progress.ts";
import { sourceSettings } from "../../src/sources/settings.ts";
import { parseSource, showSource, sourceName, type SourceReference } from "../../src/sources/source-reference.ts";
import { thrownBy } from "../helpers/thrown.ts";

const nowhere = () => false;

describe("a source", () => {
  const hub = (repository: string, revision = "main", folder = ""): SourceReference => ({ kind: "hub", repository, revision, folder });

  test.each<[string, SourceReference]>([
    ["meta-llama/Llama-3.1-8B-Instruct", hub("meta-llama/Llama-3.1-8B-Instruct")],
    ["org/sql@v1.0", hub("org/sql", "v1.0")],
    ["org/sql@refs/pr/3", hub("org/sql", "refs/pr/3")],
    ["hf://org/many/fr@0123456789abcdef0123456789abcdef01234567", hub("org/many", "0123456789abcdef0123456789abcdef01234567", "fr")],
    ["hf://org/name", hub("org/name")],
    ["s3://bucket/team/sql/", { kind: "s3", bucket: "bucket", prefix: "team/sql" }],
    ["https://models.example/a/b/", { kind: "web", url: "https://models.example/a/b" }],
    ["models/demo/adapters", { kind: "local", path: "models/demo/adapters" }],
    ["./org/sql", { kind: "local", path: "./org/sql" }],
    ["/org/sql", { kind: "local", path: "/org/sql" }],
    ["../sql", { kind: "local", path: "../sql" }],
    ["demo", { kind: "local", path: "demo" }],
    ["a/b\nc", { kind: "local", path: "a/b\nc" }],
    ["org/..", { kind: "local", path: "org/.." }],
    ["org/a--b", { kind: "local", path: "org/a--b" }],
    ["org/sql@../../x", { kind: "local", path: "org/sql@../../x" }],
    ["", { kind: "local", path: "" }],
  ])("written %j is read as such", (text, reference) => {
    expect(parseSource(text, nowhere)).toEqual(reference);
  });

  test("that is a path on this machine is that path", () => {
    expect(parseSource("org/sql", (path) => path === "org/sql")).toEqual({ kind: "local", path: "org/sql" });
  });

  test.each([
    "hf://org", "hf://org/../x", "hf://org/x/../../y", "hf://-org/x", "s3://", "s3://bucket", "s3://bucket/", "s3://B/x", "s3://bucket/../y", "s3://bucket/a/../../y", "s3://bucket/a\0b", "s3://bucket/a?x=1",
    "https://", "https://user:pass@host/x", "https://host/x?y", "https://host/x#y", "https://host\\@evil/x", "ftp://host/x", "file:///etc/passwd", "gs://bucket/x",
  ])("written %j is refused", (text) => {
    expect(thrownBy(() => parseSource(text, nowhere))).toMatchObject({ errorCode: "config_invalid", message: expect.stringMatching(/^the source /) });
  });

  test("is shown and named after its last part", () => {
    const all = ["org/sql@v1", "hf://org/many/fr", "s3://bucket/team/x.nemo", "https://h.example/a/b"].map((text) => parseSource(text, nowhere) as Exclude<SourceReference, { kind: "local" }>);
    expect(all.map(showSource)).toEqual(["org/sql@v1", "org/many/fr@main", "s3://bucket/team/x.nemo", "https://h.example/a/b"]);
    expect(all.map(sourceName)).toEqual(["sql", "fr", "x", "b"]);
  });
});

describe("settings of sources", () => {
  const read = (env: Record<string, string>, hosts: readonly string[] = []) => sourceSettings({ HOME: "/home/u", ...env }, hosts, 5);

  test("are the hub's own variables, with its own defaults", () => {
    expect(read({})).toEqual({
      hub: { endpoint: "https://huggingface.co", token: null, cache: "/home/u/.cache/huggingface/hub" },
      cache: "/home/u/.cache/lorikeet/sources",
      isOffline: false,
      trusted: [],
      timeoutMs: 5000,
    });
    expect(read({ HF_ENDPOINT: "https://mirror.example/hf/", HF_TOKEN: " t \n", HF_HOME: "~/hf", HF_HUB_OFFLINE: "1", LORIKEET_CACHE: "/c" })).toMatchObject({
      hub: { endpoint: "https://mirror.example/hf", token: "t", cache: "/home/u/hf/hub" },
      cache: "/c/sources",
      isOffline: true,
    });
    expect(read({ HF_HUB_CACHE: "/cache", HF_HOME: "/hf", XDG_CACHE_HOME: "/xdg" }).hub.cache).toBe("/cache");
    expect(read({ XDG_CACHE_HOME: "/xdg" }).hub.cache).toBe("/xdg/huggingface/hub");
    expect([["yes", true], ["TRUE", true], ["on", true], ["0", false], ["", false]].filter(([value, isOffline]) => read({ HF_HUB_OFFLINE: value as string }).isOffline !== isOffline)).toEqual([]);
  });

  test("take hosts with https, and http where it is written", () => {
    expect(read({}, ["models.example", "models.example:8443", "https://a.example/", "http://10.0.0.1:9000"]).trusted).toEqual([
      "https://models.example", "https://models.example:8443", "https://a.example", "http://10.0.0.1:9000",
    ]);
  });

  test.each(["", "a b", "host/path", "https://host/path", "user@host", "https://host?x", "*", "ftp://host"].filter((host) => host !== "*"))("refuse the host %j", (host) => {
    expect(thrownBy(() => read({}, [host]))).toMatchObject({ errorCode: "config_invalid", message: expect.stringMatching(/^--source-host must be HOST/) });
  });

  test.each(["huggingface.co", "ftp://x", "https://u:p@x/", "https://x/?a"])("refuse the endpoint %j", (endpoint) => {
    expect(thrownBy(() => read({ HF_ENDPOINT: endpoint }))).toMatchObject({ errorCode: "config_invalid", field: "HF_ENDPOINT" });
  });
});

describe("progress", () => {
  const show = (isTTY: boolean) => {
    let text = "";
    let now = 0;
    const { onProgress, onNote } = downloadProgress({ isTTY, columns: 60, write: (part: string) => (text += part) }, () => now);
    const tell = (ms: number, file: string, numBytes: number, totalBytes: number | null, isDone = false) => {
      now = ms;
      onProgress({ source: "org/sql", file, numBytes, totalBytes, isDone });
    };
    tell(0, "a", 10, 1000);
    tell(50, "a", 20, 1000);
    tell(5000, "a", 500, 1000);
    tell(5100, "b", 1, null);
    tell(10_000, "a", 900, 1000);
    tell(10_500, "a", 1000, 1000, true);
    onNote("from the cache");
    return text;
  };

  test("is a line now and then without a terminal", () => {
    expect(show(false).split("\n")).toEqual([
      "downloading org/sql: a: 900 bytes of 1.0 kB, 90 %",
      "downloaded org/sql: a (1.0 kB)",
      "note: from the cache",
      "",
    ]);
  });

  test("is one line that changes in a terminal, never wider than it", () => {
    expect(show(true).split("\r\u001b[2K")).toEqual([
      "",
      "downloading org/sql: a: 10 bytes of 1.0 kB, 1 %",
      "downloading org/sql: a: 500 bytes of 1.0 kB, 50 %",
      "downloading 2 files of org/sql: 501 bytes",
      "downloading 2 files of org/sql: 901 bytes",
      "downloaded org/sql: a (1.0 kB)\n",
      "note: from the cache\n",
    ]);
  });

  test("counts in powers of 1000", () => {
    expect([0, 999, 1000, 1_500_000, 16_060_522_240, 3e15].map(bytes)).toEqual(["0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "16.1 GB", "3000.0 TB"]);
  });
});
