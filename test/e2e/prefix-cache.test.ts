/** Answers do not change, to the bit, where sequences begin with what others have computed; and clients are told what was saved. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import fc from "fast-check";
import { join } from "node:path";
import { ALL_ADAPTERS, DEMO, type DemoServer, readDemoGolden, startDemo } from "../helpers/demo-server.ts";

interface Ask {
  readonly model: string;
  readonly prompt: readonly number[];
  readonly max_tokens: number;
  readonly seed: number;
  readonly temperature: number;
  readonly cache_salt?: string;
}
interface Answer {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly cached: number | undefined;
}

async function answer(server: DemoServer, ask: Ask): Promise<Answer> {
  const response = await server.post("/v1/completions", { ...ask, ignore_eos: true, logprobs: 0, return_token_ids: true });
  const body = (await response.json()) as {
    readonly choices: readonly { readonly token_ids: number[]; readonly logprobs: { readonly token_logprobs: number[] } }[];
    readonly usage: { readonly prompt_tokens_details?: { readonly cached_tokens: number } };
  };
  expect(response.status).toBe(200);
  const [choice] = body.choices;
  return { ids: choice!.token_ids, logprobs: choice!.logprobs.token_logprobs, cached: body.usage.prompt_tokens_details?.cached_tokens };
}

const metricOf = async (server: DemoServer, name: string): Promise<number> => {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(text.split("\n").find((line) => line.startsWith(`${name}{`))!.split(" ").at(-1));
};

const MODELS = ["demo", ...ALL_ADAPTERS];
const [{ prompt_token_ids: first }, { prompt_token_ids: second }] = readDemoGolden().filter(({ adapter }) => adapter === "sql") as [ReturnType<typeof readDemoGolden>[number], ReturnType<typeof readDemoGolden>[number]];
const LONG = [...first, ...second, ...first, ...second];

let alone: DemoServer;
beforeAll(async () => {
  alone = await startDemo({ maxBatchSize: 1, kvCacheConfig: { enableBlockReuse: false } });
});
afterAll(() => alone.stop());

test("any requests with any common beginnings answer as they do alone and computed anew", async () => {
  const request = fc.record({
    model: fc.constantFrom(...MODELS.slice(0, 4)),
    /** Tokens shared with others, of the long text; then some of its own. */
    numShared: fc.integer({ min: 0, max: LONG.length }),
    own: fc.array(fc.integer({ min: 3, max: 500 }), { minLength: 1, maxLength: 6 }),
    max_tokens: fc.integer({ min: 1, max: 10 }),
    seed: fc.nat(99),
    temperature: fc.constantFrom(0, 1.2),
    delayMs: fc.nat(40),
  });
  const sizes = fc.record({ maxNumTokens: fc.integer({ min: 4, max: 200 }), maxBatchSize: fc.integer({ min: 2, max: 40 }), maxTokens: fc.integer({ min: 256, max: 1024 }) });
  let hits = 0;
  await fc.assert(
    fc.asyncProperty(sizes, fc.array(request, { minLength: 24, maxLength: 24 }), async ({ maxTokens, ...steps }, requests) => {
      const server = await startDemo({ ...steps, kvCacheConfig: { maxTokens }, loraConfig: { loraDir: [join(DEMO, "adapters")], maxLoras: 2 } });
      try {
        const asks = requests.map(({ numShared, own, delayMs: _delayMs, ...rest }): Ask => ({ ...rest, prompt: [...LONG.slice(0, numShared), ...own] }));
        const answers = await Promise.all(asks.map(async (ask, i) => {
          await Bun.sleep(requests[i]!.delayMs);
          return answer(server, ask);
        }));
        const anew = await Promise.all(asks.map((ask) => answer(alone, ask)));
        expect(answers.map(({ cached, ...got }) => [got, cached! % 16])).toEqual(anew.map(({ cached, ...expected }) => [expected, cached!]));
        hits += await metricOf(server, "vllm:prefix_cache_hits_total");
        expect(answers.reduce((sum, { cached }) => sum + cached!, 0)).toBe(await metricOf(server, "vllm:prefix_cache_hits_total"));
      } finally {
        await server.stop();
      }
    }),
    { numRuns: 2, seed: 5, endOnFailure: true },
  );
  // How many find a beginning hangs on who is computed first; a run in which few do proves little.
  expect(hits).toBeGreaterThan(24 * 16);
}, 120_000);

test("the next turn of a conversation begins with the last one's answer; another salt, another adapter and another server do not", async () => {
  const server = await startDemo();
  try {
    const ask: Ask = { model: "sql", prompt: first, max_tokens: 30, seed: 0, temperature: 0 };
    const turn = await answer(server, ask);
    expect(turn.cached).toBe(0);
    const next = { ...ask, prompt: [...first, ...turn.ids, ...second] };
    // The last token of an answer is never computed.
    expect((await answer(server, next)).cached).toBe(Math.floor((first.length + turn.ids.length - 1) / 16) * 16);
    expect((await answer(server, { ...next, cache_salt: "other" })).cached).toBe(0);
    expect((await answer(server, { ...next, cache_salt: "other" })).cached).toBeGreaterThan(0);
    expect((await answer(server, { ...next, model: "demo" })).cached).toBe(0);
    expect(await metricOf(server, "vllm:prefix_cache_queries_total")).toBe(first.length + 4 * next.prompt.length);
    expect(await metricOf(server, "lorikeet_kv_pages_idle")).toBeGreaterThan(0);
    expect(await metricOf(server, "lorikeet_kv_pages_used")).toBe(0);
    for (const salt of ["", "x".repeat(1025), 7]) {
      const refused = await server.post("/v1/completions", { ...ask, cache_salt: salt });
      expect([refused.status, ((await refused.json()) as { error: { param: string } }).error.param]).toEqual([400, "cache_salt"]);
    }
  } finally {
    await server.stop();
  }
});
