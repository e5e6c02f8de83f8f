/** Forms beyond plain LoRA on the WASM backend: float64 arithmetic by the definition, and bits that no neighbour changes. */
import { describe, expect, test } from "bun:test";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asPageId, asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { AdapterForm } from "../../src/lora/adapter-weights.ts";
import { attach, detach } from "../helpers/attach.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { tiedEdges } from "../helpers/tied-edges.ts";
import { randomAdapter, randomWeights, TINY, tinyProgram } from "../helpers/tiny-program.ts";
import { largestError, LIMITS, runJobs, SHAPES, tokensOf } from "./cases.ts";

const FORMS: readonly AdapterForm[] = ["lora_bias", "dora", "head_lora", "embedding_lora", "modules_to_save", "trainable_tokens", "base_bias"];
const TOLERANCE = 2e-5;
const sampling = samplingWith({ logprobs: 20 });

describe.each([...FORMS])("%s", (form) => {
  // Other bases have no biases to train.
  test.each(Object.keys(SHAPES).filter((key) => form !== "base_bias" || key.includes("biases")))("equals float64 arithmetic on %s", async (key) => {
    const program = tinyProgram(SHAPES[key]!);
    const weights = randomWeights(program, 5);
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format: "float32" });
    expect(backend.info.adapterForms).toContain(form);
    const adapter = randomAdapter(program, 3, { ranks: [1, 4, 9, 3], coverage: 0.8, form });
    await attach(backend, asSlotId(1), await backend.stage(adapter));
    const tokens = tokensOf(39, program.vocabSize, 8);
    const reference = new ReferenceExecutor(program, weights);
    const expected = logSoftmax(reference.logits(tokens, adapter));
    const [token] = await runJobs(backend, [{ tokens, slot: asSlotId(1) }], [39], sampling);
    expect(largestError(token!, expected)).toBeLessThan(TOLERANCE);
    // Without the form the answer is another one.
    const { replacements: _replacements, ...rest } = adapter;
    const inLayers = adapter.deltas.filter(({ site }) => program.sites[site]!.kind === undefined);
    const plain = { ...rest, deltas: inLayers.map(({ bias: _bias, magnitude: _magnitude, ...delta }) => delta) };
    expect(largestError(token!, logSoftmax(reference.logits(tokens, plain)))).toBeGreaterThan(100 * TOLERANCE);
    await backend.close();
  });

  test.each(["bfloat16", "int8"] as const)("takes %s base weights as they are held", async (format) => {
    const program = tinyProgram({ hidden: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 16, ffn: 96, vocab: 120, bias: form === "base_bias" });
    const weights = randomWeights(program, 6);
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format });
    const adapter = randomAdapter(program, 4, { ranks: [8], dtype: "BF16", form });
    await attach(backend, asSlotId(0), await backend.stage(adapter));
    const tokens = tokensOf(24, program.vocabSize, 9);
    const [token] = await runJobs(backend, [{ tokens, slot: asSlotId(0) }], [24], sampling);
    const error = largestError(token!, logSoftmax(new ReferenceExecutor(program, weights).logits(tokens, adapter)));
    expect(error).toBeLessThan(format === "bfloat16" ? 0.1 : 0.35);
    await backend.close();
  });

  test("a row's bits do not depend on its neighbours, its chunks or the number of threads", async () => {
    const program = tinyProgram({ ...TINY, bias: true });
    const weights = randomWeights(program, 5);
    const adapters = [
      randomAdapter(program, 1, { ranks: [4], form }),
      randomAdapter(program, 2, { ranks: [7, 2], coverage: 0.5 }),
      randomAdapter(program, 3, { ranks: [5], dtype: "BF16", form: FORMS[(FORMS.indexOf(form) + 1) % FORMS.length]! }),
    ];
    const lengths = [3, 29, 17, 40, 8];
    const jobs = lengths.map((length, i) => ({ tokens: tokensOf(length, program.vocabSize, i), slot: i === 4 ? NO_SLOT : asSlotId(i % 3) }));
    const answers = async (numThreads: number, chunks: readonly number[], together: boolean) => {
      const backend = await openWasmBackend({ ...LIMITS, numThreads, program, weights, format: "float32" });
      for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
      const batches = together ? [jobs] : jobs.map((job) => [job]);
      const results = [];
      for (const batch of batches) results.push(...(await runJobs(backend, batch, chunks, sampling)));
      await backend.close();
      return results;
    };
    const alone = await answers(1, [64], false);
    expect(await answers(2, [64], true)).toEqual(alone);
    expect(await answers(2, [5, 1, 11], true)).toEqual(alone);
    expect(await answers(3, [1], false)).toEqual(alone);
  });
});

test("every scored row of a mixed step has the logits of its own adapter", async () => {
  const program = tinyProgram(TINY);
  const weights = randomWeights(program, 5);
  const backend = await openWasmBackend({ ...LIMITS, program, weights, format: "float32" });
  const forms: readonly AdapterForm[] = ["head_lora", "trainable_tokens", "modules_to_save"];
  const adapters = forms.map((form, i) => randomAdapter(program, 20 + i, { ranks: [4], form }));
  for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
  const reference = new ReferenceExecutor(program, weights);
  const sample = { sampling, counter: 0, adjustments: [] };
  const owners = [2, 1, 0, -1];
  const prompts = owners.map((slot) => tokensOf(6 + slot, program.vocabSize, 40 + slot));
  const scored = [[0, 3], [], [1, 2, 4], [2]];
  const sequences = owners.map((slot, i) => ({
    tokens: prompts[i]!,
    position: 0,
    pages: [asPageId(i)],
    slot: slot < 0 ? NO_SLOT : asSlotId(slot),
    sample: i === 1 ? null : sample,
    scores: scored[i]!.map((row) => ({ row, sample })),
  }));
  const { sampled } = await backend.run({ sequences });
  const rows = owners.flatMap((slot, i) => [...scored[i]!, ...(i === 1 ? [] : [prompts[i]!.length - 1])].map((row) => ({ slot, tokens: prompts[i]!.slice(0, row + 1) })));
  expect(sampled.length).toBe(rows.length);
  for (const [i, { slot, tokens }] of rows.entries()) {
    expect(largestError(sampled[i]!, logSoftmax(reference.logits(tokens, slot < 0 ? null : adapters[slot]!)))).toBeLessThan(TOLERANCE);
  }
  await backend.close();
});

test("weights whose changed rows have no length are refused", async () => {
  const program = tinyProgram(TINY);
  const weights = randomWeights(program, 5);
  const empty = { ...weights, readRows: (_name: string, _start: number, _rows: number, target: Uint8Array) => void target.fill(0) };
  const backend = await openWasmBackend({ ...LIMITS, program, weights: empty, format: "float32" });
  const adapter = randomAdapter(program, 1, { ranks: [2], form: "dora" });
  const zeroed = { ...adapter, deltas: adapter.deltas.map((delta) => ({ ...delta, b: { ...delta.b, bytes: new Uint8Array(delta.b.bytes.length) } })) };
  await expect(backend.stage(zeroed)).rejects.toMatchObject({ errorCode: "adapter_invalid", message: expect.stringContaining("have length 0 in row 0") });
  await backend.close();
});

describe("rows of the base's own", () => {
  const { program, weights, plain, embed, withRows } = tiedEdges();

  test.each(["float32", "bfloat16", "int8"] as const)("copies of %s weights take no memory and change nothing, others do", async (format) => {
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format });
    const jobs = [{ tokens: tokensOf(9, program.vocabSize, 3), slot: asSlotId(0) }];
    const [bare, copied, changed, saved] = await Promise.all([plain, withRows("base_copies", 0), withRows("base_copies", 0.5), withRows("modules_to_save", 0.5)].map((each) => backend.stage(each)));
    expect(copied!.numBytes).toBe(bare!.numBytes);
    const answers = [];
    for (const image of [bare!, copied!, changed!, saved!]) {
      await attach(backend, asSlotId(0), image);
      answers.push(await runJobs(backend, jobs, [9], sampling));
      detach(backend, asSlotId(0));
    }
    expect(answers[1]).toEqual(answers[0]!);
    expect(answers[2]).not.toEqual(answers[0]!);
    expect(answers[3]).toEqual(answers[2]!);
    // Kept exactly, whatever the base's format.
    expect(changed!.numBytes).toBeGreaterThan(bare!.numBytes + 2 * 4 * embed.rows * embed.cols);
    await backend.close();
  });

  test("a step that leaves the base's head out gives the bits of one that does not", async () => {
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format: "float32" });
    await attach(backend, asSlotId(0), await backend.stage(withRows("modules_to_save", 0.5)));
    const job = (seed: number, slot: SlotId) => ({ tokens: tokensOf(11, program.vocabSize, seed), slot });
    const [base] = await runJobs(backend, [job(1, NO_SLOT)], [11], sampling);
    const [own] = await runJobs(backend, [job(2, asSlotId(0))], [11], sampling);
    expect(await runJobs(backend, [job(1, NO_SLOT), job(2, asSlotId(0))], [11], sampling)).toEqual([base!, own!]);
    // A head that was never computed would leave the last step's logits.
    expect(await runJobs(backend, [job(2, asSlotId(0)), job(3, asSlotId(0))], [11], sampling)).toEqual([own!, (await runJobs(backend, [job(3, asSlotId(0))], [4], sampling))[0]!]);
    await backend.close();
  });
});
