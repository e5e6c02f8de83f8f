/**
 * What the CUDA backend must do, on a machine that has a device.
 *
 * Activations are bfloat16 here, so answers are compared with float64 arithmetic within bounds: BOUND is four times the
 * largest error that float32 arithmetic makes with bfloat16 weights alone, for every shape below.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Backend } from "../../src/backend/backend.ts";
import { asPageId, asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import type { AdapterForm } from "../../src/lora/adapter-weights.ts";
import { attach, detach } from "../helpers/attach.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { tiedEdges } from "../helpers/tied-edges.ts";
import { randomAdapter, randomWeights, TINY, type TinyShape, tinyProgram } from "../helpers/tiny-program.ts";
import { inRandomBatches, jobsOf, largestError, LIMITS, runJobs, samplingCases, SHAPES, slotCases, tokensOf } from "./cases.ts";

/** Of log-probabilities, against float64 arithmetic on the unrounded weights. */
const BOUND = 0.4;
/** Of log-probabilities, of one row in two batches: other products and splits, the same weights. */
const BATCH_BOUND = 0.15;

const WIDE: Readonly<Record<string, TinyShape>> = {
  "heads of 64, four to a kv head": { hidden: 256, layers: 2, heads: 8, kvHeads: 2, headDim: 64, ffn: 384, vocab: 500, maxContext: 4096 },
  "heads of 96": { hidden: 192, layers: 2, heads: 4, kvHeads: 4, headDim: 96, ffn: 256, vocab: 300, maxContext: 4096 },
  "heads of 128, norms on q and k": { hidden: 256, layers: 2, heads: 4, kvHeads: 1, headDim: 128, ffn: 512, vocab: 300, qkNorm: true, maxContext: 4096 },
  "a row wider than a block, heads of 128": { hidden: 1024, layers: 2, heads: 8, kvHeads: 2, headDim: 128, ffn: 1536, vocab: 300, maxContext: 4096 },
  "heads of 256, biases": { hidden: 256, layers: 1, heads: 2, kvHeads: 1, headDim: 256, ffn: 256, vocab: 300, bias: true, maxContext: 4096 },
  "twenty query heads to a kv head": { hidden: 128, layers: 1, heads: 20, kvHeads: 1, headDim: 64, ffn: 128, vocab: 300, maxContext: 4096 },
  "a window of 100": { hidden: 128, layers: 2, heads: 4, kvHeads: 2, headDim: 64, ffn: 128, vocab: 300, window: 100, maxContext: 4096 },
};

if (noCudaReason !== null) console.warn(`the tests of the CUDA backend are skipped: ${noCudaReason}`);

describe.skipIf(noCudaReason !== null)("cuda: the forward program", () => {
  test.each(Object.keys({ ...SHAPES, ...WIDE }))("is near float64 arithmetic on %s", async (key) => {
    const program = tinyProgram({ ...SHAPES, ...WIDE }[key]!);
    const weights = randomWeights(program, 5);
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const adapter = randomAdapter(program, 3, { ranks: [1, 4, 9, 3], coverage: 0.8 });
    await attach(backend, asSlotId(2), await backend.stage(adapter));
    const tokens = tokensOf(39, program.vocabSize, 8);
    for (const [slot, weightsOf] of [[NO_SLOT, null], [asSlotId(2), adapter]] as const) {
      const [token] = await runJobs(backend, [{ tokens, slot }], [39], samplingWith({ logprobs: 20 }));
      const error = largestError(token!, logSoftmax(reference.logits(tokens, weightsOf)));
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${key}, slot ${slot}: ${error.toFixed(4)}`);
      expect(error).toBeLessThan(BOUND);
      expect(error).toBeGreaterThan(0);
    }
    await backend.close();
  });

  test("scores the rows of a prompt, more of them than there are sequences", async () => {
    const program = tinyProgram(WIDE["heads of 64, four to a kv head"]!);
    const weights = randomWeights(program, 5);
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const tokens = tokensOf(LIMITS.maxSequences, program.vocabSize, 8);
    const scores = tokens.slice(1).map((token, row) => ({
      row, sample: { sampling: samplingWith({ logprobs: 0 }), counter: 0, adjustments: [{ token, generatedCount: 0, seen: false, bias: 1e30 }] },
    }));
    const sample = { sampling: samplingWith({ logprobs: 20 }), counter: 0, adjustments: [] };
    const { sampled } = await backend.run({ sequences: [{ tokens, position: 0, pages: [asPageId(3)], slot: NO_SLOT, scores, sample }] });
    expect(sampled).toHaveLength(tokens.length);
    for (const [row, token] of tokens.slice(1).entries()) {
      const wanted = logSoftmax(reference.logits(tokens.slice(0, row + 1)))[token]!;
      expect(sampled[row]!.id).toBe(token);
      expect(Math.abs(sampled[row]!.logprob - wanted)).toBeLessThan(BOUND);
    }
    expect(largestError(sampled.at(-1)!, logSoftmax(reference.logits(tokens)))).toBeLessThan(BOUND);
    await backend.close();
  });

  test("gives the same without cuBLASLt, within rounding", async () => {
    const program = tinyProgram(WIDE["heads of 64, four to a kv head"]!);
    const weights = randomWeights(program, 5);
    const answers: SampledToken[] = [];
    for (const cublasltPath of ["", "none"]) {
      const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16", cublasltPath });
      const tokens = tokensOf(30, program.vocabSize, 8);
      answers.push((await runJobs(backend, [{ tokens, slot: NO_SLOT }], [30], samplingWith({ logprobs: 20 })))[0]!);
      await backend.close();
    }
    expect(distance(answers[0]!, answers[1]!)).toBeLessThan(BATCH_BOUND);
  });
});

/** Largest difference over the alternatives that both list. */
function distance(a: SampledToken, b: SampledToken): number {
  const other = new Map(b.top.map(({ id, logprob }) => [id, logprob]));
  const shared = a.top.filter(({ id }) => other.has(id));
  expect(shared.length).toBeGreaterThan(a.top.length / 2);
  return Math.max(...shared.map(({ id, logprob }) => Math.abs(logprob - other.get(id)!)));
}

describe.skipIf(noCudaReason !== null)("cuda: batches", () => {
  const program = tinyProgram(WIDE["heads of 64, four to a kv head"]!);
  const weights = randomWeights(program, 5);
  const reference = new ReferenceExecutor(program, weights);
  const adapters = [
    randomAdapter(program, 1, { ranks: [4] }),
    randomAdapter(program, 2, { ranks: [8, 1, 17], coverage: 0.5 }),
    randomAdapter(program, 3, { ranks: [128], dtype: "BF16" }),
    randomAdapter(program, 4, { ranks: [2, 64], dtype: "BF16", coverage: 0.3 }),
    randomAdapter(program, 5, { ranks: [16], dtype: "F32" }),
  ];
  let backend: Backend;
  beforeAll(async () => {
    backend = await openCuda({ ...LIMITS, maxRows: 1024, maxSequences: 64, numExtents: LIMITS.numPages + 8192, program, weights, format: "bfloat16" });
    for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
  });
  afterAll(() => backend?.close());

  test("a row's answer is the same beside any others, in any chunks", async () => {
    let worst = 0;
    await inRandomBatches(backend, program, { maxLength: 150, numSlots: 5, maxJobs: 12, maxChunk: 200, numRuns: 30, seed: 20 }, (together, alone) => {
      worst = Math.max(worst, distance(together, alone));
      expect(worst).toBeLessThan(BATCH_BOUND);
    });
    if (process.env["SHOW_ERRORS"] !== undefined) console.log(`rows in batches: ${worst.toFixed(4)}`);
  });

  test.each([1, 40, 300])("every adapter equals float64 arithmetic on merged weights, %d rows of base beside it", async (length) => {
    for (const [slot, adapter] of adapters.entries()) {
      const jobs = jobsOf(program, [{ length: 60, slot, seed: slot }, { length, slot: -1, seed: 99 }]);
      const [token, base] = await runJobs(backend, jobs, [1000], samplingWith({ logprobs: 20 }));
      const error = largestError(token!, logSoftmax(reference.logits(jobs[0]!.tokens, adapter)));
      const baseError = largestError(base!, logSoftmax(reference.logits(jobs[1]!.tokens)));
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`adapter ${slot} beside ${length}: ${error.toFixed(4)}, base ${baseError.toFixed(4)}`);
      expect(error).toBeLessThan(BOUND);
      expect(baseError).toBeLessThan(BOUND);
    }
  });
});

const FORMS: readonly AdapterForm[] = ["lora_bias", "dora", "head_lora", "embedding_lora", "modules_to_save", "trainable_tokens", "base_bias"];
/** Other bases have no biases to train. */
const withForm = (form: AdapterForm, shape: TinyShape): TinyShape => (form === "base_bias" ? { ...shape, bias: true } : shape);

describe.skipIf(noCudaReason !== null).each([...FORMS])("cuda: %s", (form) => {
  const program = tinyProgram(withForm(form, WIDE["heads of 64, four to a kv head"]!));
  const weights = randomWeights(program, 5);

  test.each(Object.keys({ ...SHAPES, ...WIDE }))("is near float64 arithmetic on %s", async (key) => {
    const shaped = tinyProgram(withForm(form, { ...SHAPES, ...WIDE }[key]!));
    const own = randomWeights(shaped, 5);
    const reference = new ReferenceExecutor(shaped, own);
    const backend = await openCuda({ ...LIMITS, numExtents: LIMITS.numPages + 8192, program: shaped, weights: own, format: "bfloat16" });
    expect(backend.info.adapterForms).toContain(form);
    // Not the seed of plain adapters: on heads of 96 its gains multiply the noise of bfloat16 by five, in float64 emulation too.
    const adapter = randomAdapter(shaped, 4, { ranks: [1, 4, 9, 3], coverage: 0.8, form });
    await attach(backend, asSlotId(2), await backend.stage(adapter));
    const job = { tokens: tokensOf(39, shaped.vocabSize, 8), slot: asSlotId(2) };
    const wanted = logSoftmax(reference.logits(job.tokens, adapter));
    // As one prompt, and by a decode step at the end, whose graph is captured behind its first use.
    for (const chunks of [[39], [38, 1], [37, 1]]) {
      const [token] = await runJobs(backend, [job], chunks, samplingWith({ logprobs: 20 }));
      const error = largestError(token!, wanted);
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${form}, ${key}, chunks ${chunks.join()}: ${error.toFixed(4)}`);
      expect(error).toBeLessThan(BOUND);
    }
    await backend.close();
  });

  test.each([1, 40, 100, 300])("rows keep their answers beside plain adapters and %d rows of the base", async (length) => {
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openCuda({ ...LIMITS, maxRows: 1024, maxSequences: 64, numExtents: LIMITS.numPages + 8192, program, weights, format: "bfloat16" });
    const adapters = [randomAdapter(program, 1, { ranks: [4], form }), randomAdapter(program, 2, { ranks: [8, 1, 17], coverage: 0.5 }), randomAdapter(program, 3, { ranks: [16], coverage: 0.6, form })];
    for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
    const jobs = [...adapters.keys()].map((slot) => ({ tokens: tokensOf(60, program.vocabSize, slot), slot: asSlotId(slot) }));
    const base = { tokens: tokensOf(length, program.vocabSize, 99), slot: NO_SLOT };
    // Whole prompts, and with the last tokens by a decode step.
    for (const chunks of [[1000], [59, 1]]) {
      const answers = await runJobs(backend, [...jobs, base], chunks, samplingWith({ logprobs: 20 }));
      for (const [i, job] of [...jobs, base].entries()) {
        expect(largestError(answers[i]!, logSoftmax(reference.logits(job.tokens, adapters[i] ?? null)))).toBeLessThan(BOUND);
      }
    }
    await backend.close();
  });

  test("an adapter that comes back has what was found at first, and a plain one in its slot has none of it", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const [formed, plain] = [await backend.stage(randomAdapter(program, 1, { ranks: [4], form })), await backend.stage(randomAdapter(program, 2, { ranks: [4] }))];
    const job = { tokens: tokensOf(20, program.vocabSize, 3), slot: asSlotId(0) };
    const answer = async () => (await runJobs(backend, [job], [20], samplingWith({ logprobs: 20 })))[0]!;
    const answers: SampledToken[] = [];
    for (const image of [formed, plain, formed, plain]) {
      await attach(backend, asSlotId(0), image);
      answers.push(await answer());
      detach(backend, asSlotId(0));
    }
    expect(answers[2]).toEqual(answers[0]!);
    expect(answers[3]).toEqual(answers[1]!);
    expect(answers[1]).not.toEqual(answers[0]!);
    await backend.close();
  });
});

describe.skipIf(noCudaReason !== null)("cuda: forms side by side", () => {
  const program = tinyProgram({ ...WIDE["heads of 64, four to a kv head"]!, bias: true, qkNorm: true });
  const weights = randomWeights(program, 5);
  const reference = new ReferenceExecutor(program, weights);
  const adapters = [...FORMS, undefined].map((form, i) =>
    randomAdapter(program, 30 + i, { ranks: [4, 12], coverage: 0.7, dtype: i % 2 === 0 ? "F32" : "BF16", ...(form === undefined ? {} : { form }) }));
  let backend: Backend;
  beforeAll(async () => {
    backend = await openCuda({ ...LIMITS, maxRows: 1024, maxSequences: 300, numPages: 300, numSlots: 8, numExtents: LIMITS.numPages + 8192, program, weights, format: "bfloat16" });
    for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
  });
  afterAll(() => backend?.close());

  test("a row's answer is the same beside any others, in any chunks", async () => {
    let worst = 0;
    await inRandomBatches(backend, program, { maxLength: 120, numSlots: 8, maxJobs: 12, maxChunk: 200, numRuns: 30, seed: 22 }, (together, alone) => {
      worst = Math.max(worst, distance(together, alone));
      expect(worst).toBeLessThan(BATCH_BOUND);
    });
    if (process.env["SHOW_ERRORS"] !== undefined) console.log(`rows in batches of forms: ${worst.toFixed(4)}`);
  });

  // More of them than one tile of the head takes, and more than any graph.
  test.each([20, 70, 200, 290])("%d rows of one decode step have the logits of their own adapters", async (rows) => {
    for (const owners of [[0, 1, 2, 3, 4, 5, 6, 7, -1], [4, 4, 4, -1], [2], [5, 6]]) {
      const jobs = jobsOf(program, Array.from({ length: rows }, (_, i) => ({ length: 2, slot: owners[Math.floor((i * owners.length) / rows)]!, seed: i % 7 })));
      const sample = { sampling: samplingWith({ logprobs: 20 }), counter: 0, adjustments: [] };
      const stepAt = (position: number) => ({ sequences: jobs.map(({ tokens, slot }, i) => ({ tokens: [tokens[position]!], position, pages: [asPageId(i)], slot, sample })) });
      await backend.run(stepAt(0));
      const { sampled: answers } = await backend.run(stepAt(1));
      for (let i = 0; i < rows; i += 13) {
        const { tokens, slot } = jobs[i]!;
        expect(largestError(answers[i]!, logSoftmax(reference.logits(tokens, adapters[slot] ?? null)))).toBeLessThan(BOUND);
      }
    }
  });

  test("a row of the base is answered while no row of an adapter that changes the head is", async () => {
    const sample = { sampling: samplingWith({ logprobs: 20 }), counter: 0, adjustments: [] };
    const [base, prompt] = [tokensOf(5, program.vocabSize, 1), tokensOf(9, program.vocabSize, 2)];
    const { sampled } = await backend.run({
      sequences: [
        { tokens: base, position: 0, pages: [asPageId(0)], slot: NO_SLOT, sample },
        { tokens: prompt, position: 0, pages: [asPageId(1)], slot: asSlotId(2), sample: null },
      ],
    });
    expect(sampled.length).toBe(1);
    expect(largestError(sampled[0]!, logSoftmax(reference.logits(base)))).toBeLessThan(BOUND);
  });

  test("every scored row of a mixed step has the logits of its own adapter", async () => {
    const sample = { sampling: samplingWith({ logprobs: 20 }), counter: 0, adjustments: [] };
    const owners = [5, 4, 2, -1];
    const prompts = owners.map((slot) => tokensOf(7 + slot, program.vocabSize, 40 + slot));
    const scored = [[0, 3], [], [1, 2, 4], [2]];
    const { sampled } = await backend.run({
      sequences: owners.map((slot, i) => ({
        tokens: prompts[i]!,
        position: 0,
        pages: [asPageId(i)],
        slot: slot < 0 ? NO_SLOT : asSlotId(slot),
        sample: i === 1 ? null : sample,
        scores: scored[i]!.map((row) => ({ row, sample })),
      })),
    });
    const rows = owners.flatMap((slot, i) => [...scored[i]!, ...(i === 1 ? [] : [prompts[i]!.length - 1])].map((row) => ({ slot, tokens: prompts[i]!.slice(0, row + 1) })));
    expect(sampled.length).toBe(rows.length);
    for (const [i, { slot, tokens }] of rows.entries()) {
      expect(largestError(sampled[i]!, logSoftmax(reference.logits(tokens, adapters[slot] ?? null)))).toBeLessThan(BOUND);
    }
  });
});

describe.skipIf(noCudaReason !== null)("cuda: rows of the base's own", () => {
  const { program, weights, plain, embed, withRows } = tiedEdges();

  test("copies of the base take no memory and change nothing, others do", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const jobs = [{ tokens: tokensOf(9, program.vocabSize, 3), slot: asSlotId(0) }];
    const [bare, copied, changed, saved] = await Promise.all([plain, withRows("base_copies", 0), withRows("base_copies", 0.5), withRows("modules_to_save", 0.5)].map((each) => backend.stage(each)));
    expect(copied!.numBytes).toBe(bare!.numBytes);
    expect(changed!.numBytes).toBeGreaterThan(bare!.numBytes + 2 * 2 * embed.rows * embed.cols);
    const answers = [];
    for (const image of [bare!, copied!, changed!, saved!]) {
      await attach(backend, asSlotId(0), image);
      answers.push(await runJobs(backend, jobs, [9], samplingWith({ logprobs: 20 })));
      detach(backend, asSlotId(0));
    }
    expect(answers[1]).toEqual(answers[0]!);
    expect(answers[2]).not.toEqual(answers[0]!);
    expect(answers[3]).toEqual(answers[2]!);
    await backend.close();
  });

  test("rows that are not finite are refused while an adapter is staged", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    await expect(backend.stage(withRows("modules_to_save", Number.NaN))).rejects.toMatchObject({ errorCode: "adapter_invalid" });
    await backend.close();
  });
});

test.skipIf(noCudaReason !== null)("cuda: changed weights without a length are refused by the adapter that has them", async () => {
  const program = tinyProgram(TINY);
  const weights = randomWeights(program, 5);
  const empty = { ...weights, readRows: (_name: string, _start: number, _rows: number, target: Uint8Array) => void target.fill(0) };
  const backend = await openCuda({ ...LIMITS, program, weights: empty, format: "bfloat16" });
  const adapter = randomAdapter(program, 1, { ranks: [2], form: "dora" });
  const zeroed = { ...adapter, deltas: adapter.deltas.map((delta) => ({ ...delta, b: { ...delta.b, bytes: new Uint8Array(delta.b.bytes.length) } })) };
  const image = await backend.stage(zeroed);
  await expect(attach(backend, asSlotId(0), image)).rejects.toMatchObject({ errorCode: "adapter_invalid", message: expect.stringContaining("have length 0 in row 0") });
  await attach(backend, asSlotId(0), await backend.stage(randomAdapter(program, 2, { ranks: [2] })));
  await backend.close();
});

describe.skipIf(noCudaReason !== null)("cuda: long rows", () => {
  test.each(["heads of 64, four to a kv head", "heads of 128, norms on q and k", "a window of 100"])("decode over many pages is near float64 arithmetic: %s", async (key) => {
    const program = tinyProgram(WIDE[key]!);
    const weights = randomWeights(program, 6);
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openCuda({ ...LIMITS, maxRows: 512, program, weights, format: "bfloat16" });
    const jobs = [700, 130, 65, 64, 1].map((length, i) => ({ tokens: tokensOf(length, program.vocabSize, i), slot: NO_SLOT as SlotId }));
    // All but the last token in chunks, then one decode step of all rows.
    const answers = await runJobs(backend, jobs, [333, 1, 64], samplingWith({ logprobs: 20 }));
    for (const [i, job] of jobs.entries()) {
      const error = largestError(answers[i]!, logSoftmax(reference.logits(job.tokens)));
      if (process.env["SHOW_ERRORS"] !== undefined) console.log(`${key}, ${job.tokens.length} tokens: ${error.toFixed(4)}`);
      expect(error).toBeLessThan(BOUND);
    }
    await backend.close();
  });
});

describe.skipIf(noCudaReason !== null)("cuda: slots", () => {
  const program = tinyProgram(TINY);
  const weights = randomWeights(program, 5);
  const tokens = tokensOf(12, program.vocabSize, 3);
  const answer = async (backend: Backend, slot: SlotId) => (await runJobs(backend, [{ tokens, slot }], [12], samplingWith({ logprobs: 20 })))[0]!;

  slotCases(openCuda, program, weights, "bfloat16");

  test("an adapter that would not lie in the pool is refused", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const image = await backend.stage(randomAdapter(program, 1, { ranks: [4] }));
    await expect(backend.attach(asSlotId(1), LIMITS.numExtents, image)).rejects.toMatchObject({ errorCode: "invariant_violated" });
    await backend.close();
  });

  test("ranks beyond any before make room for themselves", async () => {
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    for (const [slot, rank] of [3, 100, 500].entries()) {
      const adapter = randomAdapter(program, slot, { ranks: [rank] });
      await attach(backend, asSlotId(slot), await backend.stage(adapter));
      expect(largestError(await answer(backend, asSlotId(slot)), logSoftmax(reference.logits(tokens, adapter)))).toBeLessThan(BOUND);
    }
    await backend.close();
  });

  test("numbers that are not finite are refused while an adapter is staged", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const adapter = randomAdapter(program, 1, { ranks: [2] });
    const { a } = adapter.deltas[0]!;
    new Float32Array(a.bytes.buffer, a.bytes.byteOffset, 1)[0] = Number.NaN;
    await expect(backend.stage(adapter)).rejects.toMatchObject({ errorCode: "adapter_invalid" });
    await backend.close();
  });

  test("page ids and tokens outside of their range are refused before they reach the device", async () => {
    const backend = await openCuda({ ...LIMITS, program, weights, format: "bfloat16" });
    const step = (token: number, page: number) => ({
      sequences: [{ tokens: [token], position: 0, pages: [asPageId(page)], slot: NO_SLOT, sample: { sampling: samplingWith(), counter: 0, adjustments: [] } }],
    });
    await expect(backend.run(step(program.vocabSize, 0))).rejects.toThrow("tokens lie within the vocabulary");
    await expect(backend.run(step(0, LIMITS.numExtents))).rejects.toThrow("pages lie within the pool");
    expect((await backend.run(step(0, 0))).sampled.length).toBe(1);
    await backend.close();
  });
});

if (noCudaReason === null) samplingCases("cuda", openCuda, "bfloat16");
