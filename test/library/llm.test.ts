/** The package as a program uses it: the demo model through its public face alone. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { openaiRoutes } from "../../src/mount.ts";
import { AdapterError, type GuidedDecoding, LLM, LoRARequest, type PromptInput, RequestError, type SamplingParams } from "../../src/index.ts";
import { until } from "../helpers/until.ts";

const DEMO = join(import.meta.dir, "../../models/demo");
interface Golden {
  readonly prompt: string;
  readonly raw: boolean;
  readonly prompt_token_ids: number[];
  readonly token_ids: number[];
  readonly text: string;
}
const golden = JSON.parse(readFileSync(join(DEMO, "golden.json"), "utf8")) as Record<string, Golden[]>;
const sql = golden["sql"]![0]!;
const story = golden["base"]!.find(({ raw }) => raw)!;
const asked = ({ prompt }: Golden): PromptInput => ({ messages: [{ role: "user", content: prompt }] });

const llm = new LLM({ model: DEMO, loraConfig: { loraDir: [join(DEMO, "adapters/sql"), join(DEMO, "adapters/roman")] } });
afterAll(() => llm.shutdown());

describe("generate", () => {
  test("answers a list in its order, each with its own adapter or none", async () => {
    const outputs = await llm.generate([asked(sql), story.prompt, sql.prompt_token_ids], { maxTokens: 128 }, {
      loraRequest: [new LoRARequest("sql", 1), null, new LoRARequest("sql", 1)],
    });
    expect(outputs.map(({ text }) => text)).toEqual([sql.text, story.text, sql.text]);
    expect(outputs.map(({ outputs: [first] }) => first.tokenIds)).toEqual([sql.token_ids, story.token_ids, sql.token_ids]);
    expect(outputs.map(({ prompt }) => prompt)).toEqual([null, story.prompt, null]);
    expect(outputs[0]!.promptTokenIds).toEqual(sql.prompt_token_ids);
    expect(outputs.every(({ finished }) => finished)).toBe(true);
  });

  test("gives one output for one prompt, with n sequences and their log-probabilities", async () => {
    const output = await llm.generate({ prompt: story.prompt }, { maxTokens: 5, n: 3, temperature: 1, seed: 4, logprobs: 2 });
    expect(output.outputs.length).toBe(3);
    expect(new Set(output.outputs.map(({ text }) => text)).size).toBeGreaterThan(1);
    for (const { tokenIds, logprobs, cumulativeLogprob } of output.outputs) {
      const picked = tokenIds.map((id, i) => logprobs![i]!.get(id)!.logprob);
      expect(cumulativeLogprob).toBeCloseTo(picked.reduce((a, b) => a + b, 0), 10);
    }
  });

  test("holds outputs to what they must be, beside others that are free", async () => {
    const schema = { type: "object", properties: { age: { type: "integer", minimum: 0, maximum: 99 } }, required: ["age"], additionalProperties: false };
    const tag = { type: "tag", begin: "<a>", content: { type: "json_schema", json_schema: { type: "boolean" } }, end: "</a>" };
    const wanted: readonly (readonly [GuidedDecoding, RegExp])[] = [
      [{ json: schema }, /^\{\s*"age"\s*:\s*\d{1,2}\s*\}$/],
      [{ json: JSON.stringify(schema) }, /^\{\s*"age"/],
      [{ regex: "[0-9]{3}" }, /^[0-9]{3}$/],
      [{ grammar: 'root ::= "a" [xy] "b"' }, /^a[xy]b$/],
      [{ choice: ["yes", "no"] }, /^(yes|no)$/],
      [{ structuralTag: tag }, /^<a>(true|false)<\/a>$/],
      [{ jsonObject: true }, /^\s*\{/],
    ];
    const params: SamplingParams[] = wanted.map(([guidedDecoding]) => ({ maxTokens: 48, guidedDecoding }));
    const outputs = await llm.generate([...wanted.map(() => story.prompt), story.prompt], [...params, { maxTokens: 48, guidedDecoding: null }]);
    for (const [i, [guided, pattern]] of wanted.entries()) expect({ guided, text: outputs[i]!.text }).toEqual({ guided, text: expect.stringMatching(pattern) });
    expect(outputs.at(-1)!.text).toBe((await llm.generate(story.prompt, { maxTokens: 48 })).text);
  });

  test.each<[SamplingParams, string, string]>([
    [{ guidedDecoding: {} }, "guidedDecoding", "must have exactly one of json, jsonObject, regex"],
    [{ guidedDecoding: { regex: "a", choice: ["b"] } }, "guidedDecoding", "must have exactly one of"],
    [{ guidedDecoding: { regexp: "a" } as GuidedDecoding }, "guidedDecoding.regexp", "is not known (did you mean regex?)"],
    [{ guidedDecoding: { json: "{" } }, "guidedDecoding.json", "is not of its form"],
    [{ guidedDecoding: { json: { type: "integer", multipleOf: 2 } } }, "guidedDecoding.json", "is not usable: the schema has multipleOf"],
    [{ guidedDecoding: { regex: "(" } }, "guidedDecoding.regex", "parenthesis is not closed"],
    [{ guidedDecoding: { regex: "a" }, ignoreEos: true }, "ignoreEos", "cannot be true together with guidedDecoding.regex"],
    [{ guidedDecoding: { regex: "a" }, minTokens: 1 }, "minTokens", "cannot be above 0 together with guidedDecoding.regex"],
  ])("refuses %j", async (params, field, words) => {
    const error = await llm.generate(story.prompt, params).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RequestError);
    expect(error).toMatchObject({ field, message: expect.stringContaining(words) });
  });

  test("reads an adapter of a path under a new name", async () => {
    const request = new LoRARequest("figures", 9, join(DEMO, "adapters/roman"));
    const one = golden["roman"]![0]!;
    expect((await llm.generate(asked(one), { maxTokens: 64 }, { loraRequest: request })).text).toBe(one.text);
    expect((await llm.adapters()).map(({ name }) => name)).toContain("figures");
  });

  test.each<[string, PromptInput, string]>([
    ["no messages", { messages: [] }, "messages must be a list of at least one"],
    ["a message without content", { messages: [{ role: "user" }] } as unknown as PromptInput, "messages must be a list of at least one"],
    ["an id outside the vocabulary", [4096], "token ids are whole numbers from 0 to 4095"],
    ["a number", { prompt: 3 } as unknown as PromptInput, "prompt must be a string"],
  ])("refuses %s", async (_, input, message) => {
    const error = await llm.generate(input).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(RequestError);
    expect((error as RequestError).message).toContain(message);
  });

  test("refuses an unknown adapter, and a number that stands for another", async () => {
    await expect(llm.generate("x", {}, { loraRequest: new LoRARequest("sqll", 7) })).rejects.toThrow("did you mean sql?");
    await llm.generate("x", { maxTokens: 1 }, { loraRequest: new LoRARequest("sql", 1) });
    await expect(llm.generate("x", {}, { loraRequest: new LoRARequest("roman", 1) })).rejects.toThrow("lora_int_id 1 stands for adapter sql");
  });

  test("refuses as many parameters as there are no prompts for", async () => {
    await expect(llm.generate(["a", "b"], [{ maxTokens: 1 }])).rejects.toThrow("samplingParams has 1 entries for 2 prompts");
  });
});

describe("generateAsync", () => {
  test("streams pieces that make up the text", async () => {
    const pieces: string[] = [];
    for await (const output of llm.generateAsync(story.prompt, { maxTokens: 128 })) pieces.push(output.outputs[0].textDiff);
    expect(pieces.length).toBeGreaterThan(5);
    expect(pieces.join("")).toBe(story.text);
  });

  test("ends with cancelled when its signal says so, and holds nothing", async () => {
    const controller = new AbortController();
    let last = "";
    for await (const output of llm.generateAsync("Once", { maxTokens: 900, ignoreEos: true }, { signal: controller.signal })) {
      controller.abort();
      last = output.outputs[0].finishReason ?? last;
    }
    expect(last).toBe("cancelled");
    expect((await llm.stats()).runningRequests).toBe(0);
    await until(async () => (await llm.stats()).usedPages === 0);
  });
});

test("clients of a program's routes may name no path, the program itself any, a relative one from its working directory", async () => {
  await using free = new LLM({ model: DEMO });
  const pathOf = (name: string): string => relative(process.cwd(), join(DEMO, "adapters", name));
  const output = await free.generate(asked(sql), { maxTokens: 128 }, { loraRequest: new LoRARequest("sql", 1, pathOf("sql")) });
  expect(output.text).toBe(sql.text);
  expect(await free.loadAdapter({ name: "roman", path: pathOf("roman") })).toMatchObject({ name: "roman", state: "host" });
  const routes = openaiRoutes(free, { adminKeys: ["sk-admin"] });
  const post = (path: string, body: object): Promise<Response> =>
    routes.fetch(new Request(`http://localhost${path}`, { method: "POST", headers: { "content-type": "application/json", authorization: "Bearer sk-admin" }, body: JSON.stringify(body) }));
  const lora = { lora_name: "fr", lora_int_id: 3, lora_path: join(DEMO, "adapters/translate-fr") };
  const refused = [
    await post("/v1/completions", { model: "demo", prompt: "x", max_tokens: 1, lora_request: lora }),
    await post("/v1/load_lora_adapter", lora),
  ];
  expect(refused.map(({ status }) => status)).toEqual([403, 403]);
  expect((await post("/v1/completions", { model: "roman", prompt: "x", max_tokens: 1 })).status).toBe(200);
});

test("an option that is no option is refused at once, an adapter that cannot be served at the first call", async () => {
  expect(() => new LLM({ model: DEMO, maxBatchSizes: 3 } as never)).toThrow("maxBatchSize");
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-llm-"));
  writeFileSync(join(directory, "adapter_config.json"), '{"peft_type": "IA3"}');
  await using broken = new LLM({ model: DEMO, loraConfig: { loraDir: [`other=${directory}`] } });
  await expect(broken.generate("x")).rejects.toBeInstanceOf(AdapterError);
});
