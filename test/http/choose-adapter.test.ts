import { describe, expect, test } from "bun:test";
import { AdapterError, RequestError } from "../../src/core/errors.ts";
import type { ErrorBody } from "../../src/http/error-response.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { dataOf, harness } from "./harness.ts";

const completion = { model: "demo", prompt: "hi" };
const dora = new AdapterError("adapter_unsupported", "adapter pirate cannot be served: use_dora is not served yet", { field: "use_dora" });
const named = (name: string) => ({ ...completion, model: name });
const byRequest = (loraRequest: object) => ({ ...completion, lora_request: loraRequest });

async function refusal(body: object, refused: Readonly<Record<string, AdapterError | RequestError>> = { pirate: dora }) {
  const runtime = new FakeRuntime({ refused });
  const response = await harness(runtime).post("/v1/completions", body);
  const { error } = (await response.json()) as ErrorBody;
  expect(runtime.sequences).toEqual([]);
  return { status: response.status, ...error };
}

describe("an adapter that cannot be served", () => {
  test.each([
    ["model", named("pirate"), "model"],
    ["model behind the base's name", named("demo:pirate"), "model"],
    ["lora_request", byRequest({ lora_name: "pirate" }), "lora_request"],
  ] as const)("is refused with its reason where %s names it", async (_, body, param) => {
    expect(await refusal(body)).toEqual({
      status: 400,
      message: "adapter pirate cannot be served: use_dora is not served yet",
      type: "invalid_request_error",
      param,
      code: "adapter_unsupported",
    });
  });

  test("is refused the same when that shows on first use, streamed or not", async () => {
    for (const stream of [false, true]) {
      const runtime = new FakeRuntime({ script: (sequence) => setImmediate(() => sequence.end("error", dora)) });
      const response = await harness(runtime).post("/v1/completions", { ...named("sql"), stream });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error: { code: "adapter_unsupported", param: "model", message: dora.message } });
    }
  });

  test("is told of in the stream when the headers had left", async () => {
    const runtime = new FakeRuntime({ script: (sequence) => setTimeout(() => sequence.end("error", dora), 20) });
    const { post } = harness(runtime, { headersAfterMs: 1 });
    const response = await post("/v1/completions", { ...byRequest({ lora_name: "sql" }), stream: true });
    expect(dataOf(await response.text())).toMatchObject([{ error: { code: "adapter_unsupported", param: "lora_request" } }]);
  });
});

describe("a lora_request", () => {
  test.each([
    ["lora_name", "lora_request.lora_name"],
    ["lora_int_id", "lora_request.lora_int_id"],
    ["lora_path", "lora_request.lora_path"],
  ])("at fault in its %s says so by that field's place in the body", async (field, param) => {
    const wrong = new RequestError("invalid_request", "no", { field });
    expect(await refusal(byRequest({ lora_name: "x" }), { x: wrong })).toMatchObject({ status: 400, param });
  });

  test("leaves a name that model does not know unknown", async () => {
    expect(await refusal({ ...byRequest({ lora_name: "sql" }), model: "nope" })).toMatchObject({ status: 404, code: "model_not_found", param: "model" });
  });
});
