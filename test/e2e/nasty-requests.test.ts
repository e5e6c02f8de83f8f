/**
 * What nobody should send, to the server that `npm start` runs: each is refused in OpenAI's form with a
 * sentence, or answered; and afterwards nothing is held and the model answers as before.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEMO, type DemoServer, startDemo } from "../helpers/demo-server.ts";
import { until } from "../helpers/until.ts";
import { RawClient } from "../http/raw-client.ts";

/** [what, status, a part of the message, body; a string is sent as it is] */
type Case = readonly [title: string, status: number, message: string | RegExp, body: unknown];

const text = (change: object): object => ({ model: "demo", prompt: "Once", max_tokens: 4, ...change });
const chat = (change: object): object => ({ model: "demo", messages: [{ role: "user", content: "Hi" }], max_tokens: 4, ...change });
const raw = (fields: string): string => `{"model":"demo","prompt":"Once",${fields}}`;
const deep = (depth: number, open: string, close: string): string => open.repeat(depth) + close.repeat(depth);

const COMPLETIONS: readonly Case[] = [
  ["half a body", 400, "the body is not usable", '{"model":"demo","prompt":"On'],
  ["two bodies", 400, "the body is not usable", `${raw('"n":1')}${raw('"n":1')}`],
  ["a trailing comma", 400, "the body is not usable", '{"model":"demo","prompt":"a",}'],
  ["a comment", 400, "the body is not usable", '{"model":"demo"/* x */,"prompt":"a"}'],
  ["single quotes", 400, "the body is not usable", "{'model':'demo'}"],
  ["NaN", 400, "the body is not usable", raw('"temperature":NaN')],
  ["Infinity", 400, "the body is not usable", raw('"temperature":Infinity')],
  ["-Infinity as a bias", 400, "the body is not usable", raw('"logit_bias":{"5":-Infinity}')],
  ["1e309", 400, "float64", raw('"temperature":1e309')],
  ["-1e309", 400, "float64", raw('"top_p":-1e309')],
  ["a leading zero", 400, "the body is not usable", raw('"n":01')],
  ["a plus sign", 400, "the body is not usable", raw('"n":+1')],
  ["hexadecimal", 400, "the body is not usable", raw('"n":0x1')],
  ["a byte order mark alone", 400, "the body", "\ufeff"],
  ["null", 400, "must be an object", "null"],
  ["a number", 400, "must be an object", "17"],
  ["a string", 400, "must be an object", '"demo"'],
  ["a raw control character in text", 400, "the body is not usable", '{"model":"demo","prompt":"a\u0001"}'],
  ["a bad escape", 400, "the body is not usable", '{"model":"demo","prompt":"\\x41"}'],
  ["a lone low surrogate", 400, "surrogate", '{"model":"demo","prompt":"\\udc00"}'],
  ["a lone surrogate in a key", 400, "surrogate", '{"model":"demo","prompt":"a","\\ud800":1}'],
  ["ten thousand levels of lists", 400, "nests deeper", raw(`"stop":${deep(10_000, "[", "]")}`)],
  ["ten thousand levels of objects", 400, "nests deeper", raw(`"metadata":${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`)],
  ["a thousand digits", 400, "max_tokens must be a whole number", raw(`"max_tokens":${"9".repeat(300)}`)],
  ["a field with a name of 100 kB", 400, "is not a field of this request", text({ ["x".repeat(100_000)]: 1 })],
  ["constructor", 400, "constructor is not a field", text({ constructor: 1 })],
  ["toString", 400, "toString is not a field", text({ toString: "x" })],
  ["a million spaces as a model", 404, "is not served here", text({ model: " ".repeat(1_000_000) })],
  ["an empty model", 404, "is not served here", text({ model: "" })],
  ["only the colon of a base", 404, "is not served here", text({ model: "demo:" })],
  ["a base of a base", 404, "is not served here", text({ model: "demo:demo:sql" })],
  ["a path as a model", 404, "is not served here", text({ model: "../../etc/passwd" })],
  ["an adapter that is not served, and why", 400, "adapter_config.json: ", text({ model: "refused" })],
  ["a model in a list", 400, "model must be a string", text({ model: ["demo"] })],
  ["lists in lists in the prompt", 400, "prompt", text({ prompt: [[[1]]] })],
  ["true as a prompt", 400, "prompt must be", text({ prompt: true })],
  ["a null among prompts", 400, "prompt", text({ prompt: ["a", null] })],
  ["an id of 2^31", 400, "prompt has 2147483648", text({ prompt: [2 ** 31] })],
  ["an id of 2^53", 400, "prompt has", text({ prompt: [2 ** 53] })],
  ["an id of -0.5", 400, "prompt has -0.5", text({ prompt: [-0.5] })],
  ["an id just beyond the vocabulary", 400, "from 0 to 4095", text({ prompt: [4096] })],
  ["more ids than the context", 400, "1024", text({ prompt: Array(1025).fill(5) })],
  ["a prompt of 200 kB", 400, "the prompt has 80003 tokens, but at most 1024 fit", text({ prompt: "word ".repeat(40_000) })],
  ["an empty text among good ones", 400, "prompt", text({ prompt: ["Once", [], "upon"] })],
  ["n of -1", 400, "n must be a whole number from 1 to 8, got -1", text({ n: -1 })],
  ["n of 1e18", 400, "n must be", text({ n: 1e18 })],
  ["n of 1.5", 400, "n must be", text({ n: 1.5 })],
  ["n as true", 400, "n must be", text({ n: true })],
  ["max_tokens of -1", 400, "max_tokens must be", text({ max_tokens: -1 })],
  ["max_tokens of 2^53", 400, "max_tokens", text({ max_tokens: 2 ** 53 })],
  ["max_tokens as a list", 400, "max_tokens must be", text({ max_tokens: [4] })],
  ["min_tokens of -1", 400, "min_tokens must be", text({ min_tokens: -1 })],
  ["a temperature of 1e30", 400, "temperature must be", text({ temperature: 1e30 })],
  ["a temperature in an object", 400, "temperature must be", text({ temperature: { value: 1 } })],
  ["a top_p of -1e-9", 400, "top_p must be", text({ top_p: -1e-9 })],
  ["a top_k of 2^40", 400, "top_k must be", text({ top_k: 2 ** 40 })],
  ["a min_p of -1", 400, "min_p must be", text({ min_p: -1 })],
  ["a seed as text", 400, "seed must be", text({ seed: "1" })],
  ["a seed of 1e300", 400, "seed must be", text({ seed: 1e300 })],
  ["a repetition penalty of 1e9", 400, "repetition_penalty must be", text({ repetition_penalty: 1e9 })],
  ["a negative repetition penalty", 400, "repetition_penalty must be", text({ repetition_penalty: -1 })],
  ["a stop string of 10 kB", 400, "stop must be strings of 1 to 128", text({ stop: "x".repeat(10_000) })],
  ["stop as a number", 400, "stop must be", text({ stop: 3 })],
  ["stop tokens as text", 400, "stop_token_ids", text({ stop_token_ids: ["2"] })],
  ["ten thousand stop tokens", 400, "stop_token_ids must be at most", text({ stop_token_ids: Array(10_000).fill(1) })],
  ["a bias of 1e308", 400, "logit_bias must be a finite number", text({ logit_bias: { 5: 1e308 } })],
  ["a bias on token -1", 400, "logit_bias must be token ids", text({ logit_bias: { "-1": 1 } })],
  ["a bias on token 1e3", 400, "logit_bias must be token ids", text({ logit_bias: { "1e3": 1 } })],
  ["biases in a list", 400, "logit_bias must be", text({ logit_bias: [1, 2] })],
  ["biases on everything", 400, "logit_bias must be for at most", text({ logit_bias: Object.fromEntries(Array.from({ length: 4096 }, (_, i) => [i, 1])) })],
  ["logprobs of -1", 400, "logprobs must be", text({ logprobs: -1 })],
  ["stream as 1", 400, "stream must be true or false, got 1", text({ stream: 1 })],
  ["stream options as text", 400, "stream_options must be an object", text({ stream: true, stream_options: "usage" })],
  ["ignore_eos as text", 400, "ignore_eos must be", text({ ignore_eos: "yes" })],
  ["a truncation to 0", 400, "truncate_prompt_tokens must be", text({ truncate_prompt_tokens: 0 })],
  ["a lora_request as text", 400, "lora_request must be an object", text({ lora_request: "sql" })],
  ["a lora_name of 1 MB", 404, "no adapter is named", text({ lora_request: { lora_name: "x".repeat(1_000_000) } })],
  ["a lora_int_id beyond integers", 400, "lora_int_id", text({ lora_request: { lora_name: "sql", lora_int_id: 2 ** 60 } })],
  ["a lora_path outside the roots", 403, "lora_path must be", path("/etc")],
  ["a lora_path that climbs", 403, "lora_path must be", path("../../../../etc")],
  ["a lora_path that climbs inside", 403, "lora_path must be", path("good/../../outside")],
  ["a lora_path with NUL", 403, "lora_path must be", path("good\u0000/etc")],
  ["a lora_path as a URL", 403, "lora_path must be", path("file:///etc")],
  ["a lora_path through a link", 403, "lora_path must be", path("link")],
  ["a lora_path that is empty, which is none", 404, "no adapter is named", path("")],
  ["a lora_path of 1 MB", 403, "lora_path must be", path("x/".repeat(500_000))],
  ["a lora_path to a file", 403, "lora_path must be", path("file")],
  ["a lora_path with an adapter that is broken", 400, "adapter_config.json", path("broken")],
  ["a lora_path under the name of another adapter", 400, "adapter sql is known with another path", text({ lora_request: { lora_name: "sql", lora_path: "good" } })],
  ["a lora_name that is no name", 400, 'adapter name "../x" must be letters', text({ lora_request: { lora_name: "../x", lora_path: "good" } })],
];

function path(lora_path: string): object {
  return text({ lora_request: { lora_name: `p${Bun.hash(lora_path)}`, lora_path } });
}

const CHATS: readonly Case[] = [
  ["a lone surrogate in a message", 400, "surrogate", '{"model":"demo","messages":[{"role":"user","content":"\\ud83d"}]}'],
  ["messages as an object", 400, "messages must be a list", chat({ messages: { role: "user", content: "x" } })],
  ["a null message", 400, "messages[0]", chat({ messages: [null] })],
  ["a role in capitals", 400, 'got "USER"', chat({ messages: [{ role: "USER", content: "x" }] })],
  ["content as a number", 400, "content must be", chat({ messages: [{ role: "user", content: 4 }] })],
  ["content as an object", 400, "content must be", chat({ messages: [{ role: "user", content: { text: "x" } }] })],
  ["a part of a part", 400, "content[0].text must be a string", chat({ messages: [{ role: "user", content: [{ type: "text", text: ["x"] }] }] })],
  ["an unknown field of a message", 400, "messages[0].contents is not a field", chat({ messages: [{ role: "user", contents: "x" }] })],
  ["a conversation longer than the context", 400, "at most 1024 fit", chat({ messages: Array(2000).fill({ role: "user", content: "a b c" }) })],
  ["top_logprobs of 1e6", 400, "top_logprobs must be", chat({ logprobs: true, top_logprobs: 1e6 })],
  ["max_completion_tokens of 0", 400, "max_completion_tokens must be", chat({ max_completion_tokens: 0 })],
  ["a tool call in a message", 400, "tool_calls[0] must be an object", chat({ messages: [{ role: "assistant", content: "x", tool_calls: [1] }] })],
];

interface ErrorAnswer {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null };
}

let server: DemoServer;
let before: string;

beforeAll(async () => {
  const root = mkdtempSync(join(tmpdir(), "lorikeet-nasty-"));
  const roots = join(root, "roots");
  mkdirSync(join(roots, "broken"), { recursive: true });
  mkdirSync(join(root, "outside"));
  cpSync(join(DEMO, "adapters/roman"), join(roots, "good"), { recursive: true });
  writeFileSync(join(roots, "file"), "x");
  writeFileSync(join(roots, "broken/adapter_config.json"), "{");
  writeFileSync(join(roots, "broken/adapter_model.safetensors"), "");
  symlinkSync("/etc", join(roots, "link"));
  server = await startDemo({
    adapterRoot: [roots],
    loraConfig: { loraDir: [join(DEMO, "adapters"), `refused=${join(roots, "broken")}`] },
  });
  before = await story();
});
afterAll(() => server.stop());

async function story(): Promise<string> {
  const response = await server.post("/v1/completions", text({ max_tokens: 24, temperature: 0 }));
  return ((await response.json()) as { choices: { text: string }[] }).choices[0]!.text;
}

const send = (route: string, body: unknown): Promise<Response> =>
  fetch(server.url + route, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });

const TYPES: Readonly<Record<number, string>> = { 400: "invalid_request_error", 403: "permission_error", 404: "not_found_error" };

describe.each([
  ["/v1/completions", COMPLETIONS],
  ["/v1/chat/completions", CHATS],
] as const)("%s", (route, cases) => {
  test.each(cases.map((one) => [one[0], one] as const))("refuses %s", async (_, [, status, message, body]) => {
    const response = await send(route, body);
    const { error } = (await response.json()) as ErrorAnswer;
    expect([response.status, error.message]).toEqual([status, expect.stringMatching(message instanceof RegExp ? message : literal(message))]);
    expect(Object.keys(error).toSorted()).toEqual(["code", "message", "param", "type"]);
    expect(error.type).toBe(TYPES[status]!);
    expect(error.message.length).toBeLessThan(1000);
    expect(error.message).not.toMatch(/\n|at .*\.ts:|\/tmp\/|\/home\//);
  });
});

const literal = (part: string): RegExp => new RegExp(part.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));

describe("requests that are strange, not wrong,", () => {
  test.each<[string, object]>([
    ["an empty prompt", text({ prompt: "" })],
    ["a NUL in the prompt", text({ prompt: "a\u0000b" })],
    ["every script at once", text({ prompt: "中文 العربية עברית 🏳️‍🌈 \u202e\u0301" })],
    ["the text of special tokens", text({ prompt: "</s><|endoftext|><s>" })],
    ["the smallest temperature there is", text({ temperature: 5e-324 })],
    ["a top_k of 2^31 - 1", text({ top_k: 2 ** 31 - 1, temperature: 1 })],
    ["a top_p of 0", text({ top_p: 0, temperature: 1 })],
    ["the largest temperature", text({ temperature: 1e6 })],
    ["a bias against all that is likely", text({ logit_bias: { 5: -3e38, 6: 3e38 } })],
    ["an adapter by path", text({ lora_request: { lora_name: "by-path", lora_path: "good" } })],
  ])("%s, are answered", async (_, body) => {
    const response = await send("/v1/completions", body);
    expect(response.status).toBe(200);
    expect(((await response.json()) as { usage: { completion_tokens: number } }).usage.completion_tokens).toBeGreaterThan(0);
  });
});

describe("on the socket", () => {
  const body = JSON.stringify(text({}));
  const head = (...lines: string[]): string => ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", ...lines, "", ""].join("\r\n");

  test.each<[string, string, RegExp]>([
    ["a length of -5", head("Content-Length: -5") + body, /^$|^HTTP\/1\.1 4\d\d/],
    ["a length beyond integers", head(`Content-Length: ${"9".repeat(40)}`) + body, /^$|^HTTP\/1\.1 4\d\d/],
    ["both framings", head(`Content-Length: ${body.length}`, "Transfer-Encoding: chunked") + body, /^$|^HTTP\/1\.1 4\d\d/],
    ["a chunk of no size", `${head("Transfer-Encoding: chunked")}zz\r\n${body}\r\n0\r\n\r\n`, /^$|^HTTP\/1\.1 4\d\d/],
    ["a header of 1 MB", head(`X-Long: ${"x".repeat(1_000_000)}`), /^$|^HTTP\/1\.1 4\d\d/],
    ["no HTTP at all", "\u0016\u0003\u0001\u0002\r\n\r\n", /^$|^HTTP\/1\.1 4\d\d/],
    ["a host of another site", `POST /v1/completions HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n`, /^HTTP\/1\.1 4(03|21)/],
    ["a route that climbs", `GET /v1/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n`, /^HTTP\/1\.1 404/],
    ["an encoded route", `GET /%2e%2e/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n`, /^HTTP\/1\.1 404/],
    ["a method of its own", `BREW /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n`, /^$|^HTTP\/1\.1 4\d\d/],
  ])("%s is refused or closed", async (_, bytes, expected) => {
    const client = await RawClient.connect(Number(new URL(server.url).port));
    await client.write(bytes);
    await until(() => client.isClosed || client.received.includes("\r\n\r\n"), 5_000);
    client.end();
    expect(client.received).toMatch(expected);
  });

  test("a body that is never ended, and one that leaves halfway, hold nothing", async () => {
    const port = Number(new URL(server.url).port);
    for (let i = 0; i < 20; i++) {
      const client = await RawClient.connect(port);
      client.send(`${head("Content-Length: 1000")}{"model":`);
      client.end();
    }
    await idle();
  });

  test("streams that are left after their first bytes stop within a step", async () => {
    const port = Number(new URL(server.url).port);
    const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.connect(port)));
    for (const [i, client] of clients.entries()) {
      client.post("/v1/completions", text({ model: i % 2 === 0 ? "demo" : "sql", max_tokens: 1000, ignore_eos: true, stream: true, n: 1 + (i % 3) }));
    }
    await Promise.all(clients.map((client) => client.until((received) => received.includes("data: "))));
    for (const client of clients) client.end();
    await idle();
  });
});

/** Nothing runs, waits or is open, and no page is held. */
async function idle(): Promise<void> {
  const gauges = ["vllm:num_requests_running", "vllm:num_requests_waiting", "lorikeet_open_streams", "lorikeet_kv_pages_used"];
  let held = "";
  await until(async () => {
    const lines = (await (await fetch(`${server.url}/metrics`)).text()).split("\n");
    held = lines.filter((line) => gauges.some((name) => line.startsWith(name)) && !line.endsWith(" 0")).join("\n");
    return held === "";
  }, 10_000).catch(() => expect(held).toBe(""));
}

test("after all of it the server holds nothing and answers as before", async () => {
  await idle();
  expect(await story()).toBe(before);
  expect((await fetch(`${server.url}/health`)).status).toBe(200);
  expect((await fetch(`${server.url}/ready`)).status).toBe(200);
});
