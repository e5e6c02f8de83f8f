/** Mixtures of experts on the WASM backend: right against float64, and the same bits whatever shares a step. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Backend, WeightFormat } from "../../src/backend/backend.ts";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import { attach } from "../helpers/attach.ts";
import { EXPERT_SHAPES, expertProgram, QWEN } from "../helpers/expert-programs.ts";
import { logSoftmax, ReferenceExecutor } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { randomAdapter, randomWeights } from "../helpers/tiny-program.ts";
import { inRandomBatches, largestError, LIMITS, runJobs, tokensOf } from "./cases.ts";

const SAMPLING = samplingWith({ logprobs: 20 });
const TOLERANCE = 2e-5;

describe("experts", () => {
  test.each(Object.keys(EXPERT_SHAPES))("equal float64 arithmetic: %s", async (name) => {
    const program = expertProgram(EXPERT_SHAPES[name]!);
    const weights = randomWeights(program, 5);
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openWasmBackend({ ...LIMITS, numExtents: LIMITS.numPages + 8192, program, weights, format: "float32" });
    const adapter = randomAdapter(program, 3, { ranks: [1, 4, 9, 3], coverage: 0.8 });
    await attach(backend, asSlotId(2), await backend.stage(adapter));
    const tokens = tokensOf(39, program.vocabSize, 8);
    for (const [slot, weightsOf] of [[NO_SLOT, null], [asSlotId(2), adapter]] as const) {
      for (const chunk of [39, 1]) {
        const [token] = await runJobs(backend, [{ tokens, slot }], [chunk], SAMPLING);
        const expected = logSoftmax(reference.logits(tokens, weightsOf));
        expect(token!.id).toBe(expected.indexOf(Math.max(...expected)));
        expect(largestError(token!, expected)).toBeLessThan(TOLERANCE);
      }
    }
    await backend.close();
  });

  test.each(["dora", "lora_bias", "modules_to_save"] as const)("equal float64 arithmetic with %s on experts and router", async (form) => {
    const program = expertProgram(EXPERT_SHAPES["Qwen, dense and sparse layers"]!);
    const weights = randomWeights(program, 5);
    const adapter = randomAdapter(program, 3, { ranks: [2, 5], form });
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format: "float32" });
    await attach(backend, asSlotId(0), await backend.stage(adapter));
    const tokens = tokensOf(30, program.vocabSize, 8);
    const [token] = await runJobs(backend, [{ tokens, slot: asSlotId(0) }], [7], SAMPLING);
    expect(largestError(token!, logSoftmax(new ReferenceExecutor(program, weights).logits(tokens, adapter)))).toBeLessThan(1e-4);
    await backend.close();
  });

  test.each([["bfloat16", 0.1], ["int8", 0.35]] as const)("stay near float64 arithmetic with %s weights", async (format, tolerance) => {
    // Every row has every expert: a rounded logit cannot choose another.
    const program = expertProgram({ ...QWEN, hidden_size: 64, moe_intermediate_size: 48, num_experts_per_tok: 6 });
    const weights = randomWeights(program, 6);
    const reference = new ReferenceExecutor(program, weights);
    const backend = await openWasmBackend({ ...LIMITS, program, weights, format });
    const adapter = randomAdapter(program, 4, { ranks: [8], dtype: "BF16" });
    await attach(backend, asSlotId(0), await backend.stage(adapter));
    const tokens = tokensOf(24, program.vocabSize, 9);
    for (const [slot, weightsOf] of [[NO_SLOT, null], [asSlotId(0), adapter]] as const) {
      const [token] = await runJobs(backend, [{ tokens, slot }], [24], SAMPLING);
      const error = largestError(token!, logSoftmax(reference.logits(tokens, weightsOf)));
      expect(error).toBeLessThan(tolerance);
      // Rounded weights cannot give the exact answer: an error of zero would mean the format was ignored.
      expect(error).toBeGreaterThan(TOLERANCE);
    }
    await backend.close();
  });
});

describe("rows that share experts", () => {
  const program = expertProgram({ ...QWEN, num_hidden_layers: 3, mlp_only_layers: [1], norm_topk_prob: true });
  const weights = randomWeights(program, 5);
  const adapters = [
    randomAdapter(program, 1, { ranks: [4] }),
    randomAdapter(program, 2, { ranks: [8, 1, 17], coverage: 0.5 }),
    randomAdapter(program, 3, { ranks: [20], dtype: "BF16" }),
    randomAdapter(program, 4, { ranks: [2, 3], form: "dora", coverage: 0.6 }),
    randomAdapter(program, 5, { ranks: [3], form: "modules_to_save", coverage: 0.3 }),
  ];
  const FORMATS = ["float32", "bfloat16", "int8"] as const;
  const backends = new Map<WeightFormat, Backend>();
  const openWith = async (format: WeightFormat, limits: { readonly numThreads?: number; readonly maxRows?: number } = {}): Promise<Backend> => {
    const backend = await openWasmBackend({ ...LIMITS, ...limits, program, weights, format });
    for (const [slot, adapter] of adapters.entries()) await attach(backend, asSlotId(slot), await backend.stage(adapter));
    return backend;
  };
  beforeAll(async () => {
    for (const format of FORMATS) backends.set(format, await openWith(format));
  });
  afterAll(async () => {
    for (const backend of backends.values()) await backend.close();
  });

  test.each(FORMATS)("%s: have bits that do not depend on the batch, the neighbours' adapters or the chunks", async (format) => {
    const mixes = { maxLength: 60, numSlots: 5, maxJobs: 9, maxChunk: 40, numRuns: 20, seed: 20 };
    await inRandomBatches(backends.get(format)!, program, mixes, (together, alone) => expect(together).toEqual(alone));
  });

  test.each([
    { numThreads: 1 },
    { numThreads: 3 },
    { maxRows: 4 },
    { maxRows: 17 },
  ])("have the same bits with %p", async (limits) => {
    const other = await openWith("bfloat16", limits);
    const jobs = Array.from({ length: 10 }, (_, i) => ({ tokens: tokensOf(20 + i, program.vocabSize, i), slot: i % 6 === 5 ? NO_SLOT : asSlotId(i % 6) }));
    const together = await runJobs(other, jobs, [4, 1, 16, 2], SAMPLING);
    for (const [i, one] of jobs.entries()) expect(together[i]).toEqual((await runJobs(backends.get("bfloat16")!, [one], [64], SAMPLING))[0]!);
    await other.close();
  });

  test("grow a single row at a time without a trace of what threads do twice", async () => {
    const backend = backends.get("float32")!;
    const jobs = [0, 3, 4].map((slot) => ({ tokens: tokensOf(40, program.vocabSize, slot), slot: asSlotId(slot) }));
    for (const one of jobs) {
      const [whole] = await runJobs(backend, [one], [40], SAMPLING);
      for (let i = 0; i < 2; i++) expect((await runJobs(backend, [one], [1], SAMPLING))[0]).toEqual(whole!);
    }
  });

  test("int8: have the same bits run after run, though the router's packed rows are float32", async () => {
    const wide = expertProgram({ ...QWEN, hidden_size: 64, moe_intermediate_size: 48, num_experts_per_tok: 6 });
    const backend = await openWasmBackend({ ...LIMITS, program: wide, weights: randomWeights(wide, 6), format: "int8" });
    await attach(backend, asSlotId(0), await backend.stage(randomAdapter(wide, 4, { ranks: [8], dtype: "BF16" })));
    const job = { tokens: tokensOf(24, wide.vocabSize, 9), slot: asSlotId(0) };
    const [first] = await runJobs(backend, [job], [24], SAMPLING);
    // Threads meet in an area that is too small now and then only.
    for (let run = 0; run < 80; run++) expect((await runJobs(backend, [job], [24], SAMPLING))[0]).toEqual(first!);
    await backend.close();
  });

  test("whose router is not finite are flagged, and the step ends", async () => {
    const overflowing = { ...weights, readRows: (tensor: string, row: number, count: number, target: Uint8Array) => {
      weights.readRows(tensor, row, count, target);
      if (tensor.endsWith("mlp.gate.weight")) new Float32Array(target.buffer, target.byteOffset, (count * program.hiddenSize)).fill(3e38);
    } };
    const backend = await openWasmBackend({ ...LIMITS, program, weights: overflowing, format: "float32" });
    const sample = { sampling: samplingWith(), counter: 0, adjustments: [] };
    const { sampled } = await backend.run({ sequences: [{ tokens: [1, 2, 3], position: 0, pages: [0 as never], slot: NO_SLOT, sample }] });
    expect(sampled).toEqual([null]);
    await backend.close();
  });
});
