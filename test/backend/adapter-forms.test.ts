/** Forms beyond plain LoRA on the WASM backend: float64 arithmetic by the definition, and bits that no neighbour changes. */
import { describe, expect, test } from "bun:test";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import type { AdapterForm } from "../../src/lora/adapter-weights.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { randomAdapter, randomWeights, TINY, tinyProgram } from "../helpers/tiny-program.ts";
import { largestError, LIMITS, runJobs, SHAPES, tokensOf } from "./cases.ts";

const FORMS: readonly AdapterForm[] = ["lora_bias", "dora"];
const TOLERANCE = 2e-5;
const sampling = samplingWith({ logprobs: 20 });

describe.each([...FORMS])("%s", (form) => {
  test.each(Object.keys(SHAPES))("equals float64 arithmetic on %s", async (key) => {
    const program = tinyProgram(SHAPES[key]!);
    const weights = randomWeights(program, 5);
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format: "float32" });
    expect(backend.info.adapterForms).toContain(form);
    const adapter = randomAdapter(program, 3, { ranks: [1, 4, 9, 3], coverage: 0.8, form });
    await backend.attach(asSlotId(1), await backend.stage(adapter));
    const tokens = tokensOf(39, program.vocabSize, 8);
    const reference = new ReferenceExecutor(program, weights);
    const expected = logSoftmax(reference.logits(tokens, adapter));
    const [token] = await runJobs(backend, [{ tokens, slot: asSlotId(1) }], [39], sampling);
    expect(largestError(token!, expected)).toBeLessThan(TOLERANCE);
    // Without the form the answer is another one.
    const plain = { ...adapter, deltas: adapter.deltas.map(({ bias: _bias, magnitude: _magnitude, ...delta }) => delta) };
    expect(largestError(token!, logSoftmax(reference.logits(tokens, plain)))).toBeGreaterThan(100 * TOLERANCE);
    await backend.close();
  });

  test.each(["bfloat16", "int8"] as const)("takes %s base weights as they are held", async (format) => {
    const program = tinyProgram({ hidden: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 16, ffn: 96, vocab: 120 });
    const weights = randomWeights(program, 6);
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format });
    const adapter = randomAdapter(program, 4, { ranks: [8], dtype: "BF16", form });
    await backend.attach(asSlotId(0), await backend.stage(adapter));
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
      randomAdapter(program, 3, { ranks: [5], dtype: "BF16", form: form === "dora" ? "lora_bias" : "dora" }),
    ];
    const lengths = [3, 29, 17, 40, 8];
    const jobs = lengths.map((length, i) => ({ tokens: tokensOf(length, program.vocabSize, i), slot: i === 4 ? NO_SLOT : asSlotId(i % 3) }));
    const answers = async (numThreads: number, chunks: readonly number[], together: boolean) => {
      const backend = await openWasmBackend({ ...LIMITS, numThreads, program, weights, format: "float32" });
      for (const [slot, adapter] of adapters.entries()) await backend.attach(asSlotId(slot), await backend.stage(adapter));
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
