/** Requests for the base and for every adapter in one batch answer as each does alone. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DEMO, DEMO_ADAPTERS, type DemoServer, startDemo, taskOf } from "../helpers/demo-server.ts";

const tasks = [...DEMO_ADAPTERS];
const prompts = tasks.flatMap((task) =>
  readFileSync(join(DEMO, `eval/${taskOf(task)}.jsonl`), "utf8").trim().split("\n").slice(0, 12)
    .map((line) => (JSON.parse(line) as { prompt: string }).prompt),
);

interface Ask {
  readonly model: string;
  readonly prompt: string;
  readonly temperature: number;
  readonly seed: number;
}

const answer = async (server: DemoServer, { model, prompt, temperature, seed }: Ask): Promise<readonly number[]> => {
  const body = {
    model,
    messages: [{ role: "user", content: prompt }],
    max_tokens: 24,
    temperature,
    seed,
    ignore_eos: true,
    return_token_ids: true,
  };
  const response = await server.post("/v1/chat/completions", body);
  expect(response.status).toBe(200);
  return ((await response.json()) as { choices: { token_ids: number[] }[] }).choices[0]!.token_ids;
};

const ask = fc.record({
  model: fc.constantFrom("demo", ...tasks),
  prompt: fc.constantFrom(...prompts),
  temperature: fc.constantFrom(0, 0, 1.3),
  seed: fc.nat(1000),
});

/** What each ask gives alone, on a server with nothing else to do. */
const alone = new Map<string, readonly number[]>();
let single: DemoServer;
beforeAll(async () => {
  single = await startDemo({ maxBatchSize: 1 });
});
afterAll(() => single.stop());

async function expectedOf(one: Ask): Promise<readonly number[]> {
  const key = JSON.stringify(one);
  const known = alone.get(key) ?? (await answer(single, one));
  alone.set(key, known);
  return known;
}

describe.each([
  ["roomy steps", {}],
  ["chunks of 16 rows", { maxBatchSize: 16, maxNumTokens: 16 }],
  ["four slots for seven adapters' worth of requests", { loraConfig: { loraDir: [join(DEMO, "adapters")], maxLoras: 2 } }],
  ["a pool so small that sequences are preempted", { kvCacheConfig: { maxTokens: 320 } }],
])("with %s", (_, options) => {
  let server: DemoServer;
  beforeAll(async () => {
    server = await startDemo(options);
  });
  afterAll(() => server.stop());

  test("64 requests at once answer, token for token, as each does alone", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(ask, { minLength: 64, maxLength: 64 }),
        fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 64, maxLength: 64 }),
        async (asks, delays) => {
          const answers = await Promise.all(
            asks.map(async (one, i) => {
              await Bun.sleep(delays[i]!);
              return answer(server, one);
            }),
          );
          for (const [i, one] of asks.entries()) expect(answers[i]).toEqual(await expectedOf(one));
        },
      ),
      { numRuns: 2, seed: 11, endOnFailure: true },
    );
  }, 120_000);
});
