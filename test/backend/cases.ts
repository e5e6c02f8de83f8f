/** What every backend must do. Each backend's test file calls `backendCases` with its own way to open one. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Backend, BackendOptions, WeightFormat } from "../../src/backend/backend.ts";
import { asPageId, asSlotId, NO_SLOT, type PageId, type SlotId } from "../../src/core/ids.ts";
import type { SampledToken, Sampling } from "../../src/core/sampling.ts";
import type { StepSequence } from "../../src/core/step.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import type { Program } from "../../src/model/program.ts";
import { attach, detach } from "../helpers/attach.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { numbers, randomAdapter, randomWeights, TINY, type TinyShape, tinyProgram } from "../helpers/tiny-program.ts";

export type OpenBackend = (options: BackendOptions) => Promise<Backend>;

export const SHAPES: Readonly<Record<string, TinyShape>> = {
  "grouped heads": TINY,
  "tied embeddings": { ...TINY, tied: true },
  "biases everywhere": { ...TINY, bias: true },
  "norms on q and k": { ...TINY, qkNorm: true },
  "a sliding window of 5": { ...TINY, window: 5 },
  "a window as long as a page": { ...TINY, window: 16 },
  "partial rotation": { ...TINY, rotaryDim: 4 },
  "odd sizes": { hidden: 33, layers: 3, heads: 5, kvHeads: 5, headDim: 6, ffn: 17, vocab: 97 },
  "one head of 64": { hidden: 64, layers: 1, heads: 1, kvHeads: 1, headDim: 64, ffn: 96, vocab: 50 },
  "three heads per kv head, 128 wide": { hidden: 48, layers: 1, heads: 3, kvHeads: 1, headDim: 128, ffn: 64, vocab: 200 },
};

/** Largest difference of log-probabilities against float64, by weight format. */
const TOLERANCE: Readonly<Record<WeightFormat, number>> = { float32: 2e-5, bfloat16: 0.1, int8: 0.35 };

const NUM_PAGES = 64;
export const LIMITS = { numThreads: 2, maxRows: 96, maxSequences: 12, numExtents: NUM_PAGES + 1024, numPages: NUM_PAGES, numSlots: 6 };

export interface RandomMixes {
  /** Tokens of a prompt, rows of a step of one sequence, and sequences, at most. */
  readonly maxLength: number;
  readonly maxChunk: number;
  readonly maxJobs: number;
  /** Slots with an adapter, from 0 on. */
  readonly numSlots: number;
  readonly numRuns: number;
  readonly seed: number;
}

/** Sequences of base and adapters, of tokens drawn by their seeds. */
export const jobsOf = ({ vocabSize }: Program, specs: readonly { readonly length: number; readonly slot: number; readonly seed: number }[]): Job[] =>
  specs.map(({ length, slot, seed }) => ({ tokens: tokensOf(length, vocabSize, seed), slot: slot < 0 ? NO_SLOT : asSlotId(slot) }));

/** @param check what must hold of the answer that a sequence has beside others, in random chunks, and of the one it has alone */
export async function inRandomBatches(
  backend: Backend,
  program: Program,
  { maxLength, maxChunk, maxJobs, numSlots, ...runs }: RandomMixes,
  check: (together: SampledToken, alone: SampledToken) => void,
): Promise<void> {
  const job = fc.record({ length: fc.integer({ min: 1, max: maxLength }), slot: fc.integer({ min: -1, max: numSlots - 1 }), seed: fc.nat(1000) });
  const chunk = fc.integer({ min: 1, max: maxChunk });
  const sampling = samplingWith({ logprobs: 20 });
  await fc.assert(
    fc.asyncProperty(fc.array(job, { minLength: 1, maxLength: maxJobs }), fc.array(chunk, { minLength: 1, maxLength: 4 }), async (specs, chunks) => {
      const jobs = jobsOf(program, specs);
      const together = await runJobs(backend, jobs, chunks, sampling);
      for (const [i, one] of jobs.entries()) {
        const [alone] = await runJobs(backend, [one], [backend.info.maxRows], sampling);
        check(together[i]!, alone!);
      }
    }),
    runs,
  );
}

/** What attaching and detaching must leave alone. */
export function slotCases(open: OpenBackend, program: Program, weights: BackendOptions["weights"], format: WeightFormat): void {
  const tokens = tokensOf(12, program.vocabSize, 3);
  const answer = async (backend: Backend, slot: SlotId) => (await runJobs(backend, [{ tokens, slot }], [12], samplingWith({ logprobs: 20 })))[0]!;

  test("a detached slot is free for another adapter, in the same memory", async () => {
    const backend = await open({ ...LIMITS, program, weights, format });
    const first = await backend.stage(randomAdapter(program, 1, { ranks: [4] }));
    const second = await backend.stage(randomAdapter(program, 2, { ranks: [4] }));
    await attach(backend, asSlotId(0), first);
    const before = await answer(backend, asSlotId(0));
    for (let i = 0; i < 50; i++) {
      detach(backend, asSlotId(0));
      await attach(backend, asSlotId(0), i % 2 === 0 ? second : first);
    }
    expect(await answer(backend, asSlotId(0))).toEqual(before);
    await backend.close();
  });

  test("pages may lie where an adapter was, and an adapter where pages were", async () => {
    const backend = await open({ ...LIMITS, program, weights, format });
    const image = await backend.stage(randomAdapter(program, 1, { ranks: [4] }));
    await attach(backend, asSlotId(0), image);
    const [base, adapted] = [await answer(backend, NO_SLOT), await answer(backend, asSlotId(0))];
    detach(backend, asSlotId(0));
    for (let i = 0; i < 3; i++) {
      await backend.attach(asSlotId(1), i, image);
      backend.detach(asSlotId(1));
      expect(await answer(backend, NO_SLOT)).toEqual(base);
      const aside = NUM_PAGES + i;
      await backend.attach(asSlotId(2), aside, image);
      expect(await answer(backend, asSlotId(2))).toEqual(adapted);
      backend.detach(asSlotId(2));
    }
    await backend.close();
  });
}

/** Shuffled pages, so that no test passes because tables happen to be in order. */
function pageLists(pageTokens: number, lengths: readonly number[]): PageId[][] {
  const free = Array.from({ length: NUM_PAGES }, (_, i) => asPageId((i * 37 + 11) % NUM_PAGES));
  return lengths.map((length) => free.splice(0, Math.ceil(length / pageTokens)));
}

export const tokensOf = (length: number, vocab: number, seed: number): number[] => {
  const random = numbers(seed);
  return Array.from({ length }, () => Math.floor(((random() + 1) / 2) * vocab));
};

interface Job {
  readonly tokens: readonly number[];
  readonly slot: SlotId;
  /** First position with the slot, those before are the base model's; left out for all. */
  readonly activeFrom?: number;
}

/** Feeds whole prompts in the given chunk sizes, some jobs side by side, and returns the last sample of each. */
export async function runJobs(backend: Backend, jobs: readonly Job[], chunks: readonly number[], sampling: Sampling): Promise<SampledToken[]> {
  const pages = pageLists(backend.info.pageTokens, jobs.map((job) => job.tokens.length));
  const done = jobs.map(() => 0);
  const results: SampledToken[] = [];
  for (let turn = 0; results.filter(Boolean).length < jobs.length; turn++) {
    const sequences: (StepSequence & { job: number })[] = [];
    let rows = backend.info.maxRows;
    jobs.forEach((job, i) => {
      const length = Math.min(chunks[(turn + i) % chunks.length]!, job.tokens.length - done[i]!, rows);
      if (length <= 0) return;
      rows -= length;
      const end = done[i]! + length;
      const middle = Math.min(end, Math.max(done[i]!, job.activeFrom ?? 0));
      for (const [from, to, slot] of [[done[i]!, middle, NO_SLOT], [middle, end, job.slot]] as const) {
        if (from === to) continue;
        sequences.push({
          job: i,
          tokens: job.tokens.slice(from, to),
          position: from,
          pages: pages[i]!.slice(0, Math.ceil(end / backend.info.pageTokens)),
          slot,
          sample: to === job.tokens.length ? { sampling, counter: 0, adjustments: [] } : null,
        });
      }
      done[i] = end;
    });
    sequences.sort((a, b) => b.slot - a.slot);
    const { sampled } = await backend.run({ sequences });
    sequences.filter((sequence) => sequence.sample !== null).forEach((sequence, i) => (results[sequence.job] = sampled[i]!));
  }
  return results;
}

export const largestError = (token: SampledToken, reference: Float64Array): number =>
  Math.max(...token.top.map(({ id, logprob }) => Math.abs(logprob - reference[id]!)));

export function backendCases(name: string, open: OpenBackend): void {
  describe(`${name}: the forward program`, () => {
    test.each(Object.keys(SHAPES))("equals float64 arithmetic on %s", async (key) => {
      const program = tinyProgram(SHAPES[key]!);
      const weights = randomWeights(program, 5);
      const reference = new ReferenceExecutor(program, weights);
      const backend = await open({ ...LIMITS, program, weights, format: "float32" });
      const adapter = randomAdapter(program, 3, { ranks: [1, 4, 9, 3], coverage: 0.8 });
      await attach(backend, asSlotId(2), await backend.stage(adapter));
      const tokens = tokensOf(39, program.vocabSize, 8);
      for (const [slot, weightsOf] of [[NO_SLOT, null], [asSlotId(2), adapter]] as const) {
        const [token] = await runJobs(backend, [{ tokens, slot }], [39], samplingWith({ logprobs: 20 }));
        const expected = logSoftmax(reference.logits(tokens, weightsOf));
        expect(token!.id).toBe(expected.indexOf(Math.max(...expected)));
        expect(token!.rank).toBe(1);
        expect(largestError(token!, expected)).toBeLessThan(TOLERANCE.float32);
      }
      await backend.close();
    });

    test.each(["bfloat16", "int8"] as const)("stays near float64 arithmetic with %s weights", async (format) => {
      const program = tinyProgram({ hidden: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 16, ffn: 96, vocab: 120 });
      const weights = randomWeights(program, 6);
      const reference = new ReferenceExecutor(program, weights);
      const backend = await open({ ...LIMITS, program, weights, format });
      const adapter = randomAdapter(program, 4, { ranks: [8], dtype: "BF16" });
      await attach(backend, asSlotId(0), await backend.stage(adapter));
      const tokens = tokensOf(24, program.vocabSize, 9);
      for (const [slot, weightsOf] of [[NO_SLOT, null], [asSlotId(0), adapter]] as const) {
        const [token] = await runJobs(backend, [{ tokens, slot }], [24], samplingWith({ logprobs: 20 }));
        const error = largestError(token!, logSoftmax(reference.logits(tokens, weightsOf)));
        expect(error).toBeLessThan(TOLERANCE[format]);
        // Rounded weights cannot give the exact answer: an error of zero would mean the format was ignored.
        expect(error).toBeGreaterThan(TOLERANCE.float32);
      }
      await backend.close();
    });
  });

  describe(`${name}: batches`, () => {
    const program = tinyProgram(TINY);
    const weights = randomWeights(program, 5);
    const adapters: AdapterWeights[] = [
      randomAdapter(program, 1, { ranks: [4] }),
      randomAdapter(program, 2, { ranks: [8, 1, 17], coverage: 0.5 }),
      randomAdapter(program, 3, { ranks: [40], dtype: "BF16" }),
      randomAdapter(program, 4, { ranks: [2, 3], dtype: "BF16", coverage: 0.3 }),
    ];
    const backends = new Map<WeightFormat, Backend>();
    beforeAll(async () => {
      for (const format of ["float32", "bfloat16", "int8"] as const) {
        const backend = await open({ ...LIMITS, program, weights, format });
        for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
        backends.set(format, backend);
      }
    });
    afterAll(async () => {
      for (const backend of backends.values()) await backend.close();
    });

    test.each(["float32", "bfloat16", "int8"] as const)(
      "%s: a row's bits do not depend on its batch, its neighbours' adapters or its chunks",
      async (format) => {
        const mixes = { maxLength: 60, numSlots: 4, maxJobs: 9, maxChunk: 40, numRuns: 25, seed: 20 };
        await inRandomBatches(backends.get(format)!, program, mixes, (together, alone) => expect(together).toEqual(alone));
      },
    );

    test.each([4, 16, 17, 20, 40])("hold for a backend of at most %d rows a step", async (maxRows) => {
      const small = await open({ ...LIMITS, maxRows, program, weights, format: "bfloat16" });
      for (const [slot, adapter] of adapters.entries()) await attach(small, asSlotId(slot), await small.stage(adapter));
      const jobs = Array.from({ length: 10 }, (_, i) => ({
        tokens: tokensOf(20 + i, program.vocabSize, i),
        slot: i % 5 === 4 ? NO_SLOT : asSlotId(i % 5),
      }));
      const sampling = samplingWith({ logprobs: 20 });
      const together = await runJobs(small, jobs, [4, 1, 16, 2], sampling);
      for (const [i, one] of jobs.entries()) {
        expect(together[i]).toEqual((await runJobs(backends.get("bfloat16")!, [one], [64], sampling))[0]!);
      }
      await small.close();
    });

    test("an adapter that acts from a position on: float64 arithmetic, and the same bits in any chunks and beside any neighbours", async () => {
      const backend = backends.get("float32")!;
      const reference = new ReferenceExecutor(program, weights);
      const sampling = samplingWith({ logprobs: 20 });
      const job = fc.record({ length: fc.integer({ min: 1, max: 40 }), slot: fc.integer({ min: 0, max: 3 }), seed: fc.nat(1000), from: fc.nat(41) });
      await fc.assert(
        fc.asyncProperty(
          fc.array(job, { minLength: 1, maxLength: 5 }),
          fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
          async (specs, chunks) => {
            const jobs = specs.map(({ length, slot, seed, from }) => ({ tokens: tokensOf(length, program.vocabSize, seed), slot: asSlotId(slot), activeFrom: Math.min(from, length) }));
            const together = await runJobs(backend, jobs, chunks, sampling);
            for (const [i, one] of jobs.entries()) {
              const [alone] = await runJobs(backend, [one], [backend.info.maxRows], sampling);
              expect(together[i]).toEqual(alone!);
              const expected = logSoftmax(reference.logits(one.tokens, adapters[one.slot]!, one.activeFrom));
              expect(largestError(alone!, expected)).toBeLessThan(TOLERANCE.float32);
            }
          },
        ),
        { numRuns: 20, seed: 21 },
      );
      const tokens = tokensOf(30, program.vocabSize, 5);
      const [base, late, whole] = await Promise.all([30, 12, 0].map((activeFrom) => reference.logits(tokens, adapters[0]!, activeFrom)));
      expect(base).toEqual(reference.logits(tokens));
      expect(late).not.toEqual(base!);
      expect(late).not.toEqual(whole!);
    });

    test("rows of the base model are untouched by adapters beside them", async () => {
      const backend = backends.get("float32")!;
      const reference = new ReferenceExecutor(program, weights);
      const tokens = tokensOf(20, program.vocabSize, 77);
      const jobs = [NO_SLOT, asSlotId(0), NO_SLOT, asSlotId(2)].map((slot) => ({ tokens, slot }));
      const [first, , third] = await runJobs(backend, jobs, [20], samplingWith({ logprobs: 20 }));
      expect(first).toEqual(third!);
      expect(largestError(first!, logSoftmax(reference.logits(tokens)))).toBeLessThan(TOLERANCE.float32);
    });

    test("equal merged weights: deltas of several ranks sum to one dense matrix", async () => {
      const backend = backends.get("float32")!;
      const reference = new ReferenceExecutor(program, weights);
      for (const [slot, adapter] of adapters.entries()) {
        const tokens = tokensOf(30, program.vocabSize, slot);
        const [token] = await runJobs(backend, [{ tokens, slot: asSlotId(slot) }], [7], samplingWith({ logprobs: 20 }));
        expect(largestError(token!, logSoftmax(reference.logits(tokens, adapter)))).toBeLessThan(TOLERANCE.float32);
      }
    });
  });

  describe(`${name}: slots`, () => {
    const program = tinyProgram(TINY);
    const weights = randomWeights(program, 5);
    const tokens = tokensOf(12, program.vocabSize, 3);
    const answer = async (backend: Backend, slot: SlotId) =>
      (await runJobs(backend, [{ tokens, slot }], [12], samplingWith({ logprobs: 20 })))[0]!;

    slotCases(open, program, weights, "float32");

    test("an adapter that would not lie in the pool is a bug, and said so before anything is written", async () => {
      const backend = await open({ ...LIMITS, program, weights, format: "float32" });
      const image = await backend.stage(randomAdapter(program, 1, { ranks: [4] }));
      await expect(backend.attach(asSlotId(0), LIMITS.numExtents, image)).rejects.toMatchObject({ errorCode: "invariant_violated" });
      await expect(backend.attach(asSlotId(0), -1, image)).rejects.toMatchObject({ errorCode: "invariant_violated" });
      await backend.attach(asSlotId(0), NUM_PAGES, image);
      await backend.close();
    });

    test("deltas may overlap: a fused and a split delta on one slice add up", async () => {
      const reference = new ReferenceExecutor(program, weights);
      const split = randomAdapter(program, 1, { ranks: [3] });
      const other = randomAdapter(program, 9, { ranks: [5] });
      const both = { ...split, digest: "b".repeat(64), deltas: [...split.deltas, ...other.deltas] };
      const backend = await open({ ...LIMITS, program, weights, format: "float32" });
      await attach(backend, asSlotId(0), await backend.stage(both));
      expect(largestError(await answer(backend, asSlotId(0)), logSoftmax(reference.logits(tokens, both)))).toBeLessThan(
        TOLERANCE.float32,
      );
      await backend.close();
    });
  });

  samplingCases(name, open, "float32");
}

/** The weights of the program are spread so far apart that rounding changes no order among the likely tokens. */
export function samplingCases(name: string, open: OpenBackend, format: WeightFormat): void {
  describe(`${name}: sampling`, () => {
    const program: Program = tinyProgram({ ...TINY, vocab: 300 });
    const weights = randomWeights(program, 5);
    const reference = logSoftmax(new ReferenceExecutor(program, weights).logits([1, 2, 3]));
    const byLikelihood = [...reference.keys()].sort((a, b) => reference[b]! - reference[a]!);
    let backend: Backend;
    beforeAll(async () => {
      backend = await open({ ...LIMITS, program, weights, format });
    });
    afterAll(() => backend.close());

    const sample = async (sampling: Sampling, counter = 0, adjustments: NonNullable<StepSequence["sample"]>["adjustments"] = [], allowed?: Int32Array) => {
      const wanted = { sampling, counter, adjustments, ...(allowed === undefined ? {} : { allowed }) };
      const sequence = { tokens: [1, 2, 3], position: 0, pages: [asPageId(0)], slot: NO_SLOT, sample: wanted };
      return (await backend.run({ sequences: [sequence] })).sampled[0]!;
    };
    const draws = async (sampling: Sampling, count: number): Promise<Map<number, number>> => {
      const counts = new Map<number, number>();
      for (let i = 0; i < count; i++) {
        const { id } = (await sample(sampling, i))!;
        counts.set(id, (counts.get(id) ?? 0) + 1);
      }
      return counts;
    };
    const adjustment = (token: number, change: { seen?: boolean; generatedCount?: number; bias?: number }) => ({
      token,
      seen: change.seen ?? false,
      generatedCount: change.generatedCount ?? 0,
      bias: change.bias ?? 0,
    });

    test("greedy takes the most likely token and reports the raw distribution", async () => {
      const token = (await sample(samplingWith({ logprobs: 5 })))!;
      expect(token.id).toBe(byLikelihood[0]!);
      expect(token.top.map(({ id }) => id)).toEqual(byLikelihood.slice(0, 5));
      expect(Math.abs(token.logprob - reference[token.id]!)).toBeLessThan(TOLERANCE[format]);
    });

    test("picks among the allowed tokens only, whatever the sampling; what it reports is the raw distribution", async () => {
      for (const ids of [[299], [0, 31, 32, 63], byLikelihood.slice(40, 60), byLikelihood.slice(3)]) {
        const allowed = new Int32Array(Math.ceil(300 / 32));
        for (const id of ids) allowed[id >> 5]! |= 1 << (id & 31);
        const best = byLikelihood.find((id) => ids.includes(id))!;
        // Where numbers are rounded, tokens that are about as likely may change places.
        const isAsLikely = (id: number, other: number): boolean => Math.abs(reference[id]! - reference[other]!) <= 2 * TOLERANCE[format];
        const numAsLikely = byLikelihood.filter((id) => isAsLikely(id, best)).length;
        const greedy = (await sample(samplingWith({ logprobs: 2 }), 0, [], allowed))!;
        expect(ids.filter((id) => isAsLikely(id, best))).toContain(greedy.id);
        expect(greedy.top.map(({ id }) => id)).toEqual(byLikelihood.slice(0, 2));
        expect(Math.abs(greedy.rank - byLikelihood.indexOf(greedy.id) - 1)).toBeLessThan(Math.max(1, 2 * numAsLikely));
        for (const cut of [{}, { topK: 3 }, { topP: 0.7 }, { minP: 0.2 }]) {
          for (let i = 0; i < 40; i++) expect(ids).toContain((await sample({ ...samplingWith(), temperature: 4, ...cut }, i, [], allowed))!.id);
        }
        const top = (await sample({ ...samplingWith(), temperature: 4, topK: 1 }, 7, [], allowed))!;
        expect(top.id).toBe(greedy.id);
      }
      expect(await sample(samplingWith(), 0, [], new Int32Array(10))).toBeNull();
      expect((await sample(samplingWith()))!.id).toBe(byLikelihood[0]!);
    });

    test("a draw follows the distribution", async () => {
      const counts = await draws({ ...samplingWith(), temperature: 1 }, 600);
      for (const id of byLikelihood.slice(0, 5)) {
        const expected = Math.exp(reference[id]!) * 600;
        expect(Math.abs((counts.get(id) ?? 0) - expected)).toBeLessThan(5 * Math.sqrt(expected) + 5);
      }
    });

    test("the same seed and counter give the same token; other seeds do not", async () => {
      const hot = (seed: bigint): Sampling => ({ ...samplingWith(), temperature: 3, seed });
      const series = async (seed: bigint) => {
        const ids: number[] = [];
        for (let i = 0; i < 12; i++) ids.push((await sample(hot(seed), i))!.id);
        return ids;
      };
      expect(await series(5n)).toEqual(await series(5n));
      expect(await series(5n)).not.toEqual(await series(6n));
      expect(await series(5n)).not.toEqual(await series(5n + (1n << 40n)));
    });

    test.each([1, 2, 7])("top-k %d draws from the k most likely tokens only", async (topK) => {
      const counts = await draws({ ...samplingWith(), temperature: 5, topK }, 300);
      expect(new Set(counts.keys())).toEqual(new Set(byLikelihood.slice(0, topK)));
    });

    test("top-p keeps the smallest set that reaches p", async () => {
      const topP = 0.5;
      let mass = 0;
      const kept = byLikelihood.filter((id) => {
        const needed = mass < topP;
        mass += Math.exp(reference[id]!);
        return needed;
      });
      const counts = await draws({ ...samplingWith(), temperature: 1, topP }, 600);
      for (const id of counts.keys()) expect(kept).toContain(id);
      expect(counts.size).toBeGreaterThan(kept.length / 2);
    });

    test("min-p drops tokens below a share of the most likely one", async () => {
      const floor = Math.log(0.5) + reference[byLikelihood[0]!]!;
      const counts = await draws({ ...samplingWith(), temperature: 1, minP: 0.5 }, 300);
      for (const id of counts.keys()) expect(reference[id]!).toBeGreaterThan(floor - 1e-3);
    });

    test("a bias of minus infinity forbids a token, and reports stay raw", async () => {
      const best = byLikelihood[0]!;
      const token = (await sample(samplingWith({ logprobs: 3 }), 0, [adjustment(best, { bias: Number.NEGATIVE_INFINITY })]))!;
      expect(token.id).toBe(byLikelihood[1]!);
      expect(token.rank).toBe(2);
      expect(token.top[0]!.id).toBe(best);
    });

    test("penalties move logits by their formulas", async () => {
      const best = byLikelihood[0]!;
      const gap = reference[best]! - reference[byLikelihood[1]!]!;
      const frequencyPenalty = gap / 3;
      const at = (generatedCount: number) =>
        sample({ ...samplingWith(), frequencyPenalty }, 0, [adjustment(best, { generatedCount })]);
      expect((await at(2))!.id).toBe(best);
      expect((await at(4))!.id).toBe(byLikelihood[1]!);
      const presence = (presencePenalty: number) =>
        sample({ ...samplingWith(), presencePenalty }, 0, [adjustment(best, { generatedCount: 1 })]);
      expect((await presence(gap * 0.9))!.id).toBe(best);
      expect((await presence(gap * 1.1))!.id).toBe(byLikelihood[1]!);
      const seen = await sample({ ...samplingWith(), repetitionPenalty: 1000 }, 0, [adjustment(best, { seen: true })]);
      expect(seen!.id).not.toBe(best);
    });

    test("a row with every token forbidden is flagged, and its neighbour is not", async () => {
      const forbidden = byLikelihood.map((token) => adjustment(token, { bias: Number.NEGATIVE_INFINITY }));
      const of = (page: number, adjustments: readonly ReturnType<typeof adjustment>[]): StepSequence => ({
        tokens: [1, 2, 3],
        position: 0,
        pages: [asPageId(page)],
        slot: NO_SLOT,
        sample: { sampling: samplingWith(), counter: 0, adjustments },
      });
      const { sampled } = await backend.run({ sequences: [of(0, forbidden), of(1, [])] });
      expect(sampled[0]).toBeNull();
      expect(sampled[1]!.id).toBe(byLikelihood[0]!);
    });
  });
}
