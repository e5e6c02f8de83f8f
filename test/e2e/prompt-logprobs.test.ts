/** Log-probabilities of a prompt, however it is cut into steps, against those that sampling reports. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { LLM, LoRARequest } from "../../src/index.ts";
import { DEMO, type DemoServer, readDemoGolden, startDemo } from "../helpers/demo-server.ts";
import { join } from "node:path";

interface Logprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
  readonly text_offset: readonly number[];
}
interface Body {
  readonly choices: readonly { readonly text: string; readonly finish_reason: string; readonly logprobs: Logprobs }[];
  readonly usage: { readonly completion_tokens: number };
}

const { prompt_token_ids: ids } = readDemoGolden().find(({ adapter }) => adapter === "sql")!;
let narrow: DemoServer;
let wide: DemoServer;
beforeAll(async () => {
  narrow = await startDemo({ maxBatchSize: 3, maxNumTokens: 7 });
  wide = await startDemo();
});
afterAll(() => Promise.all([narrow.stop(), wide.stop()]));

const ask = async (server: DemoServer, body: object): Promise<Body> =>
  (await (await server.post("/v1/completions", { model: "sql", prompt: ids, temperature: 0, ...body })).json()) as Body;
const scored = { echo: true, max_tokens: 0, logprobs: 2, return_tokens_as_token_ids: true };

test("each is what sampling reports of that token behind what comes before it", async () => {
  const { choices, usage } = await ask(wide, scored);
  const { logprobs, finish_reason } = choices[0]!;
  expect([logprobs.tokens.length, logprobs.token_logprobs[0], logprobs.top_logprobs[0], finish_reason, usage.completion_tokens]).toEqual([ids.length, null, null, "length", 0]);
  for (const at of [1, 2, 9, ids.length - 1]) {
    const forced = await ask(wide, { prompt: ids.slice(0, at), max_tokens: 1, logprobs: 2, return_tokens_as_token_ids: true, logit_bias: { [String(ids[at])]: 1e30 } });
    expect(forced.choices[0]!.logprobs.tokens).toEqual([logprobs.tokens[at]!]);
    expect(logprobs.token_logprobs[at]!).toBe(forced.choices[0]!.logprobs.token_logprobs[0]!);
    expect(logprobs.top_logprobs[at]!).toEqual(forced.choices[0]!.logprobs.top_logprobs[0]!);
  }
});

test("they do not depend on batch, chunks or neighbours, nor does what follows", async () => {
  const alone = await ask(wide, { ...scored, max_tokens: 12 });
  const free = await ask(wide, { max_tokens: 12, logprobs: 2, return_tokens_as_token_ids: true });
  const crowd = await Promise.all([
    ask(narrow, { ...scored, max_tokens: 12 }),
    ask(narrow, { ...scored, max_tokens: 12 }),
    ask(narrow, { ...scored, model: "roman", max_tokens: 3 }),
    ask(narrow, { model: "demo", max_tokens: 20 }),
    ask(narrow, { ...scored, max_tokens: 12 }),
  ]);
  for (const i of [0, 1, 4]) expect(crowd[i]!.choices).toEqual(alone.choices);
  expect(alone.choices[0]!.logprobs.token_logprobs.slice(ids.length)).toEqual([...free.choices[0]!.logprobs.token_logprobs]);
  expect(alone.choices[0]!.text.endsWith(free.choices[0]!.text)).toBe(true);
});

test("a stream begins with the prompt and its log-probabilities; offsets go on behind it", async () => {
  const response = await wide.post("/v1/completions", { model: "demo", prompt: "Once upon a time", echo: true, logprobs: 0, max_tokens: 5, temperature: 0, stream: true });
  const chunks = (await response.text()).split("\n\n").filter((line) => line.startsWith("data: {")).map((line) => (JSON.parse(line.slice(6)) as Body).choices[0]!);
  expect(chunks[0]!.text).toBe("Once upon a time");
  const logprobs = chunks.map((chunk) => chunk.logprobs);
  const offsets = logprobs.flatMap(({ text_offset: offset }) => [...offset]);
  expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  expect(offsets.length).toBe(logprobs[0]!.tokens.length + 5);
  expect(offsets[logprobs[0]!.tokens.length]).toBe("Once upon a time".length);
});

test("a prompt of one token has none", async () => {
  const { choices } = await ask(wide, { ...scored, prompt: [ids[1]!] });
  expect(choices[0]!.logprobs.token_logprobs).toEqual([null]);
});

test("a program gets them by token", async () => {
  await using llm = new LLM({ model: DEMO, loraConfig: { loraDir: [join(DEMO, "adapters/sql")] } });
  const output = await llm.generate(ids, { maxTokens: 1, promptLogprobs: 1 }, { loraRequest: new LoRARequest("sql", 1) });
  const { logprobs } = (await ask(wide, scored)).choices[0]!;
  expect(output.promptLogprobs!.length).toBe(ids.length);
  expect(output.promptLogprobs![0]).toBeNull();
  for (const [i, id] of ids.entries()) if (i > 0) expect(output.promptLogprobs![i]!.get(id)!.logprob).toBe(logprobs.token_logprobs[i]!);
});
