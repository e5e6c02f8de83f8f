/** Requests for the base and for every adapter in one batch answer as each does alone, to the last bit. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, ALL_ADAPTERS, type DemoServer, startDemo, taskOf } from "../helpers/demo-server.ts";
import { MADE_UP, writeMadeUpAdapters } from "../helpers/made-up-adapters.ts";

const NUM_REQUESTS = 64;
const models = ["demo", ...ALL_ADAPTERS, ...MADE_UP];
const loraDir = [join(DEMO, "adapters"), writeMadeUpAdapters()];
const prompts = ALL_ADAPTERS.flatMap((task) =>
  readFileSync(join(DEMO, `eval/${taskOf(task)}.jsonl`), "utf8").trim().split("\n").slice(0, 12)
    .map((line) => (JSON.parse(line) as { prompt: string }).prompt),
);

interface Ask {
  readonly prompt: string;
  readonly max_tokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly repetition_penalty: number;
  readonly frequency_penalty: number;
}

interface Answer {
  readonly ids: readonly number[];
  /** Of the tokens picked; any other bit in a logit shows here first. */
  readonly logprobs: readonly number[];
}

async function answer(server: DemoServer, model: string, { prompt, ...rest }: Ask): Promise<Answer> {
  const messages = [{ role: "user", content: prompt }];
  const response = await server.post("/v1/chat/completions", { model, messages, ...rest, ignore_eos: true, logprobs: true, return_token_ids: true });
  expect(response.status).toBe(200);
  const [choice] = ((await response.json()) as {
    choices: { token_ids: number[]; logprobs: { content: { logprob: number }[] } }[];
  }).choices;
  return { ids: choice!.token_ids, logprobs: choice!.logprobs.content.map(({ logprob }) => logprob) };
}

const ask: fc.Arbitrary<Ask> = fc.record({
  prompt: fc.constantFrom(...prompts),
  max_tokens: fc.integer({ min: 1, max: 32 }),
  temperature: fc.constantFrom(0, 0, 1.3),
  seed: fc.nat(1000),
  repetition_penalty: fc.constantFrom(1, 1, 1.2),
  frequency_penalty: fc.constantFrom(0, 0, 0.5),
});
const listOf = <T>(each: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(each, { minLength: NUM_REQUESTS, maxLength: NUM_REQUESTS });
const traffic = fc.record({
  asks: listOf(ask),
  /** Which model each request is for: every model gets its share, in any order. */
  order: fc.shuffledSubarray(Array.from({ length: NUM_REQUESTS }, (_, i) => i), { minLength: NUM_REQUESTS }),
  delaysMs: listOf(fc.integer({ min: 0, max: 12 })),
});

/** What each ask gives alone, on a server with nothing else to do and nothing to remember. */
const alone = new Map<string, Answer>();
let single: DemoServer;
beforeAll(async () => {
  single = await startDemo({ maxBatchSize: 1, kvCacheConfig: { enableBlockReuse: false }, loraConfig: { loraDir } });
});
afterAll(() => single.stop());

async function expectedOf(model: string, one: Ask): Promise<Answer> {
  const key = JSON.stringify([model, one]);
  const known = alone.get(key) ?? (await answer(single, model, one));
  alone.set(key, known);
  return known;
}

let server: DemoServer | null = null;
afterEach(async () => {
  await server?.stop();
  server = null;
});

type Traffic = typeof traffic extends fc.Arbitrary<infer T> ? T : never;

async function expectAsAlone(running: DemoServer, { asks, order, delaysMs }: Traffic): Promise<void> {
  const modelOf = (i: number): string => models[order[i]! % models.length]!;
  const answers = await Promise.all(
    asks.map(async (one, i) => {
      await Bun.sleep(delaysMs[i]!);
      return answer(running, modelOf(i), one);
    }),
  );
  for (const [i, one] of asks.entries()) {
    const got = answers[i]!;
    expect(got.ids.length).toBe(one.max_tokens);
    expect(got).toEqual(await expectedOf(modelOf(i), one));
  }
}

/** [what is short, options, a counter, what it must have reached for the test to have tested it] */
const SHORTAGES: readonly (readonly [string, object, string, (count: number) => void])[] = [
  ["roomy steps", {}, "lorikeet_steps_total", (steps) => expect(steps).toBeLessThan(NUM_REQUESTS * 16)],
  ["chunks of 16 rows", { maxBatchSize: 16, maxNumTokens: 16 }, "lorikeet_steps_total", (steps) => expect(steps).toBeGreaterThan(NUM_REQUESTS)],
  ["two slots for twelve adapters", { loraConfig: { loraDir, maxLoras: 2 } }, "lorikeet_adapter_evictions_total", (evictions) => expect(evictions).toBeGreaterThan(0)],
  ["a pool so small that sequences are preempted", { kvCacheConfig: { maxTokens: 320 } }, "vllm:num_preemptions_total", (preemptions) => expect(preemptions).toBeGreaterThan(0)],
];

async function counterOf(running: DemoServer, name: string): Promise<number> {
  const text = await (await fetch(`${running.url}/metrics`)).text();
  const line = text.split("\n").find((each) => each.startsWith(`${name}{`) || each.startsWith(`${name} `));
  return Number(line!.split(" ").at(-1));
}

describe("64 requests at once answer, token for token and bit for bit, as each does alone", () => {
  test.each(SHORTAGES.map((one) => [one[0], one] as const))("with %s", async (_, [, options, counter, expectCount]) => {
    server = await startDemo({ loraConfig: { loraDir }, ...options });
    const running = server;
    await fc.assert(fc.asyncProperty(traffic, (each) => expectAsAlone(running, each)), { numRuns: 2, seed: 11, endOnFailure: true });
    expectCount(await counterOf(running, counter));
  }, 120_000);

  test("with any sizes of steps, batches and pools, and any number of threads", async () => {
    const sizes = fc.record({
      maxNumTokens: fc.integer({ min: 1, max: 200 }),
      maxBatchSize: fc.integer({ min: 1, max: 80 }),
      threads: fc.integer({ min: 1, max: 3 }),
      maxTokens: fc.integer({ min: 128, max: 2048 }),
      maxLoras: fc.integer({ min: 1, max: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(sizes, traffic, async ({ maxTokens, maxLoras, ...steps }, each) => {
        server = await startDemo({ ...steps, kvCacheConfig: { maxTokens }, loraConfig: { loraDir, maxLoras } });
        await expectAsAlone(server, each);
        await server.stop();
        server = null;
      }),
      { numRuns: 8, seed: 7, endOnFailure: true },
    );
  }, 240_000);
});
