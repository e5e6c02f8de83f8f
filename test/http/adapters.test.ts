import { describe, expect, test } from "bun:test";
import { AdapterError } from "../../src/core/errors.ts";
import { FakeRuntime } from "../helpers/fake-runtime.ts";
import { harness } from "./harness.ts";

const ADMIN = "sk-admin";
const USER = "sk-user";
const as = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
const open = (runtime = new FakeRuntime()) => harness(runtime, { apiKeys: [USER], adminKeys: [ADMIN] });
const load = { lora_name: "new", lora_path: "new" };

describe("POST /v1/load_lora_adapter", () => {
  test("loads an adapter, which /v1/models and /v1/adapters then list, and answers as vLLM does", async () => {
    const { post, fetch, runtime } = open();
    const response = await post("/v1/load_lora_adapter", { ...load, lora_int_id: 3, lora_ckpt_source: "nemo", load_inplace: true, pin: true }, as(ADMIN));
    expect([response.status, await response.text()]).toEqual([200, "Success: LoRA adapter 'new' added successfully."]);
    expect(runtime.loads).toEqual([{ name: "new", path: "new", intId: 3, source: "nemo", pin: true, replace: true }]);
    const ids = async (path: string) => ((await (await fetch(path, as(USER))).json()) as { data: { id: string }[] }).data.map(({ id }) => id);
    expect(await ids("/v1/models")).toContain("new");
    expect(await ids("/v1/adapters")).toContain("new");
    const gone = await post("/v1/unload_lora_adapter", { lora_name: "new" }, as(ADMIN));
    expect([gone.status, await gone.text()]).toEqual([200, "Success: LoRA adapter 'new' removed successfully."]);
    expect(await ids("/v1/models")).not.toContain("new");
  });

  test.each([
    [{}, "lora_path", "is missing"],
    [{ lora_name: "new" }, "lora_path", "is missing"],
    [{ lora_path: "new" }, "lora_name", "is missing"],
    [{ ...load, lora_path: "" }, "lora_path", "must not be empty"],
    [{ ...load, lora_path: 5 }, "lora_path", "must be a string"],
    [{ ...load, lora_int_id: -1 }, "lora_int_id", "must be a whole number"],
    [{ ...load, pin: "yes" }, "pin", "must be true or false"],
    [{ ...load, load_inplace: 1 }, "load_inplace", "must be true or false"],
    [{ ...load, lora_ckpt_source: "zip" }, "lora_ckpt_source", 'must be "hf" or "nemo"'],
    [{ ...load, lora_pth: "x" }, "lora_pth", "is not a field of this request (did you mean lora_path?)"],
  ])("refuses %p", async (body, param, problem) => {
    const { post, runtime } = open();
    const response = await post("/v1/load_lora_adapter", body, as(ADMIN));
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: { message: string; param: string } };
    expect([error.param, error.message]).toEqual([param, expect.stringContaining(problem)]);
    expect(runtime.loads).toEqual([]);
  });

  test("tells why an adapter is not served", async () => {
    const refused = { new: new AdapterError("adapter_invalid", "the adapter's file holds no tensors") };
    const response = await open(new FakeRuntime({ refused })).post("/v1/load_lora_adapter", load, as(ADMIN));
    expect([response.status, await response.json()]).toEqual([
      400,
      { error: { message: "the adapter's file holds no tensors", type: "invalid_request_error", param: null, code: "adapter_invalid" } },
    ]);
  });
});

describe("POST /v1/unload_lora_adapter", () => {
  test("says 404 for a name that nothing has", async () => {
    const response = await open().post("/v1/unload_lora_adapter", { lora_name: "nothing" }, as(ADMIN));
    expect([response.status, ((await response.json()) as { error: { code: string } }).error.code]).toEqual([404, "adapter_not_found"]);
  });

  test("refuses what belongs to loading", async () => {
    expect((await open().post("/v1/unload_lora_adapter", { lora_name: "sql", pin: true }, as(ADMIN))).status).toBe(400);
  });
});

describe("the admin key", () => {
  const routes = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"];

  test.each(routes)("is asked for by %s, before the body is looked at", async (route) => {
    const { post, runtime } = open();
    const statuses = [
      (await post(route, "not JSON", as(USER))).status,
      (await post(route, "not JSON", as("sk-other"))).status,
      (await post(route, "not JSON")).status,
    ];
    expect(statuses).toEqual([403, 401, 401]);
    expect(runtime.loads).toEqual([]);
  });

  test.each(routes)("is asked for by %s where no other key is", async (route) => {
    const { post } = harness(new FakeRuntime(), { adminKeys: [ADMIN] });
    expect((await post(route, load)).status).toBe(403);
    expect((await post(route, { lora_name: "sql", ...(route.includes("unload") ? {} : load) }, as(ADMIN))).status).toBe(200);
  });

  test.each(routes)("that the server does not have closes %s to everyone", async (route) => {
    const { post } = harness(new FakeRuntime(), { apiKeys: [USER] });
    const response = await post(route, load, as(USER));
    const { error } = (await response.json()) as { error: { code: string; message: string } };
    expect([response.status, error.code, error.message]).toEqual([403, "admin_only", expect.stringContaining("--admin-key")]);
  });

  test("does all that an API key does", async () => {
    expect((await open().fetch("/v1/models", as(ADMIN))).status).toBe(200);
  });

  test("alone shows paths", async () => {
    const { fetch } = open();
    const cards = async (key: string) => ((await (await fetch("/v1/adapters", as(key))).json()) as { data: object[] }).data;
    expect(await cards(ADMIN)).toMatchObject([{ id: "sql", path: "/adapters/sql" }, { path: "/adapters/translate-fr" }]);
    const [first] = await cards(USER);
    expect(first).toEqual({
      id: "sql", object: "adapter", created: 1_700_000_000, state: "registered", tier: "disk", pinned: false, digest: null,
      rank: null, modules: null, bytes: null, active_requests: 0, requests: 0, prompt_tokens: 0, generated_tokens: 0,
      loads: 0, last_used: null, last_error: null,
    });
    expect(JSON.stringify(await cards(USER))).not.toContain("/adapters/");
  });
});
