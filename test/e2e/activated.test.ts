/** Activated LoRA through the whole runtime, on the shipped kernels: what PEFT's generate answers, in any steps and company. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { openModel } from "../../src/model/load-model.ts";
import { createLocalRuntime, type LocalRuntime } from "../../src/runtime/local-runtime.ts";
import { FIXTURE_CASES, type FixtureCase } from "../helpers/fixture-cases.ts";
import { collect, fakeModel } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";

const CASES = FIXTURE_CASES.filter(({ activeFrom }) => activeFrom !== undefined);
const [{ base }] = CASES as [FixtureCase];
const model = openModel(base);

interface Sizes {
  readonly maxRows: number;
  readonly maxSequences: number;
  readonly numPages: number;
  readonly numSlots: number;
}

async function openFixtures(sizes: Sizes, sharesPrefixes = true): Promise<LocalRuntime> {
  const { program, weights } = model;
  const backend = await openWasmBackend({ ...sizes, program, weights, format: "float32", numThreads: 2, numExtents: sizes.numPages + 1024 });
  return createLocalRuntime({
    model: { ...fakeModel(program.vocabSize), program },
    backend,
    readAdapter: ({ path }) => readAdapter(path, program),
    options: { sharesPrefixes, adapters: [...new Set(CASES.map(({ adapter }) => adapter!))].map((path) => ({ name: path.split("/").at(-1)!, path })) },
  });
}

type Answer = readonly (readonly [token: number, logprob: number])[];

async function ask(runtime: LocalRuntime, { adapter, prompt, greedy }: FixtureCase, isBase = false): Promise<Answer> {
  const id = isBase ? null : await runtime.resolveAdapter({ name: adapter!.split("/").at(-1)! });
  const sampling = samplingWith({ maxTokens: greedy.length, logprobs: 0 });
  const { events } = await collect(runtime.generate({ promptTokens: prompt, adapter: id, sampling, tenant: "", timeoutMs: null }));
  return events.flatMap(({ tokens }) => tokens.map(({ id: token, logprob }) => [token, logprob] as const));
}

test("every case answers as PEFT does, with the same bits whatever the sizes and whatever else runs", async () => {
  const alone = await openFixtures({ maxRows: 64, maxSequences: 1, numPages: 8, numSlots: 3 }, false);
  const expected: Answer[] = [];
  for (const one of CASES) expected.push(await ask(alone, one));
  const bases: Answer[] = [];
  for (const one of CASES) bases.push(await ask(alone, one, true));
  expect(expected.map((tokens) => tokens.map(([id]) => id))).toEqual(CASES.map(({ greedy }) => [...greedy]));
  // Without its invocation an adapter is the base model, to the bit; with it, another one.
  CASES.forEach(({ activeFrom }, i) => {
    if (activeFrom === Infinity) expect(expected[i]).toEqual(bases[i]!);
    else expect(expected[i]).not.toEqual(bases[i]!);
  });
  await alone.close();

  const sizes = fc.record({
    maxRows: fc.integer({ min: 1, max: 40 }),
    maxSequences: fc.integer({ min: 1, max: 12 }),
    numPages: fc.integer({ min: 3, max: 24 }),
    numSlots: fc.integer({ min: 1, max: 3 }),
  });
  await fc.assert(
    fc.asyncProperty(sizes, async (each) => {
      const runtime = await openFixtures(each);
      const together = await Promise.all([...CASES.map((one) => ask(runtime, one)), ...CASES.map((one) => ask(runtime, one, true))]);
      expect(together).toEqual([...expected, ...bases]);
      await runtime.close();
    }),
    { numRuns: 6, seed: 3, endOnFailure: true },
  );
}, 60_000);

test("what the base model has computed before an invocation is not computed again, nor the other way round", async () => {
  const runtime = await openFixtures({ maxRows: 64, maxSequences: 4, numPages: 16, numSlots: 3 });
  const one = CASES.find(({ name }) => name.endsWith("pair_at_the_end"))!;
  const cachedTokens = async (isBase: boolean, prompt: readonly number[]) => {
    const adapter = isBase ? null : await runtime.resolveAdapter({ name: "pair" });
    const sampling = samplingWith({ maxTokens: 2 });
    return (await collect(runtime.generate({ promptTokens: prompt, adapter, sampling, tenant: "", timeoutMs: null }))).finish.usage.cachedTokens;
  };
  // Pages have 16 positions, and the adapter acts from position 22 on.
  expect(await cachedTokens(true, one.prompt)).toBe(0);
  expect(await cachedTokens(false, one.prompt)).toBe(16);
  const other = one.prompt.with(3, 99);
  expect(await cachedTokens(false, other)).toBe(0);
  expect(await cachedTokens(true, other)).toBe(16);
  await runtime.close();
});
