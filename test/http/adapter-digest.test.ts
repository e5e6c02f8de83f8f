/** Every answer says which adapter's content gave it. */
import { describe, expect, test } from "bun:test";
import { asAdapterId } from "../../src/core/ids.ts";
import { FakeRuntime, type Script, saying } from "../helpers/fake-runtime.ts";
import { harness } from "./harness.ts";

const HEADER = "x-lorikeet-adapter-digest";
const DIGEST = "ab".repeat(32);
const sql = asAdapterId(0);
const body = { model: "sql", prompt: "hi", max_tokens: 4 };

/** Reads the adapter's files only once it is asked. */
const loadingFirst =
  (runtime: FakeRuntime, delayMs: number, next: Script): Script =>
  (sequence) => {
    setTimeout(() => {
      runtime.digests.set(sql, DIGEST);
      next(sequence);
    }, delayMs);
  };

describe("the digest header", () => {
  test.each([false, true])("is on an answer of an adapter that was just read (stream %p)", async (stream) => {
    const runtime = new FakeRuntime();
    runtime.script = loadingFirst(runtime, 0, saying("ok"));
    const response = await harness(runtime).post("/v1/completions", { ...body, stream });
    expect(response.headers.get(HEADER)).toBe(DIGEST);
    await response.text();
  });

  test("is waited for by a stream's headers while the files are read", async () => {
    const runtime = new FakeRuntime();
    runtime.script = loadingFirst(runtime, 100, saying("ok"));
    const response = await harness(runtime, { headersAfterMs: 50 }).post("/v1/completions", { ...body, stream: true });
    expect(response.headers.get(HEADER)).toBe(DIGEST);
    await response.text();
  });

  test.each([false, true])("is not on an answer of the base model (stream %p)", async (stream) => {
    const runtime = new FakeRuntime();
    runtime.digests.set(sql, DIGEST);
    const response = await harness(runtime).post("/v1/completions", { ...body, model: "demo", stream });
    expect(response.status).toBe(200);
    expect(response.headers.get(HEADER)).toBeNull();
    await response.text();
  });
});
