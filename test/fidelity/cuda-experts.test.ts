/**
 * Mixtures of experts written by transformers and PEFT on a CUDA device, in bfloat16, against their float32.
 *
 * Where two experts are as good as each other within rounding, a device may take either, and its answer is another one. So
 * what its routers chose is read, held to be among the best within the noise of their logits, and given to the reference,
 * whose log-probabilities then bound the device's as in any other model.
 */
import { describe, expect, test } from "bun:test";
import type { CudaBackend } from "../../src/backend/cuda/cuda-backend.ts";
import { asPageId, asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { openModel } from "../../src/model/load-model.ts";
import { type Reference, referenceOf } from "../helpers/bfloat16-noise.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { EXPERT_CASES, type FixtureCase, NUM_EXPERT_CASES } from "../helpers/fixture-cases.ts";
import { logSoftmax } from "../helpers/reference-executor.ts";
import { runRouted } from "../helpers/routed-steps.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { attach } from "../helpers/attach.ts";

if (noCudaReason !== null) console.warn(`mixtures of experts on a CUDA device are skipped: ${noCudaReason}`);

async function readCase(one: FixtureCase) {
  const { program, weights } = openModel(one.base);
  const adapter = one.adapter === null ? null : await readAdapter(one.adapter, program);
  return { program, weights, adapter };
}

const decidedTokens = ({ steps, bound }: Reference): number => steps.filter(({ margin }) => margin > bound).length;
const decidedRoutes = ({ routes: { margins, bound } }: Reference): number => margins.filter((margin) => margin > bound).length;
const share = (references: readonly Reference[], count: (one: Reference) => number, total: (one: Reference) => number): number =>
  references.reduce((sum, one) => sum + count(one), 0) / references.reduce((sum, one) => sum + total(one), 0);

describe("the bounds of bfloat16", () => {
  test("leave most tokens and most choices of experts to check, and the float64 executor picks all tokens as transformers and PEFT did", async () => {
    expect(EXPERT_CASES.length).toBe(NUM_EXPERT_CASES);
    const references: Reference[] = [];
    for (const one of EXPERT_CASES) {
      const { program, weights, adapter } = await readCase(one);
      const reference = referenceOf(program, weights, adapter, one.prompt, one.greedy);
      expect(reference.steps.map(({ best }) => best)).toEqual([...one.greedy]);
      expect(reference.bound).toBeGreaterThan(0);
      references.push(reference);
    }
    expect(share(references, decidedTokens, ({ steps }) => steps.length)).toBeGreaterThan(0.4);
    expect(share(references, decidedRoutes, ({ routes }) => routes.margins.length)).toBeGreaterThan(0.7);
  }, 60_000);
});

describe.skipIf(noCudaReason !== null)("mixtures of experts on the CUDA backend", () => {
  test.each(EXPERT_CASES.map((one) => [one.name, one] as const))("%s: experts, log-probabilities and decided tokens within bfloat16", async (_, one) => {
    const { program, weights, adapter } = await readCase(one);
    const backend = (await openCuda({
      program, weights, format: "bfloat16", numThreads: 1, maxRows: 64, maxSequences: 4, numExtents: 8 + 8192, numPages: 8, numSlots: 1,
    })) as CudaBackend;
    try {
      const slot = adapter === null ? NO_SLOT : asSlotId(0);
      if (adapter !== null) await attach(backend, slot, await backend.stage(adapter));
      const experts: number[][][] = [];
      const answers: Float64Array[] = [];
      // The prompt in one step, then a step for each token.
      for (let position = 0, i = 0; i < one.greedy.length; i++) {
        const tokens = i === 0 ? one.prompt : [one.greedy[i - 1]!];
        const sample = { sampling: samplingWith(), counter: i, adjustments: [] };
        const { logits, experts: chosen } = await runRouted(backend, program, { sequences: [{ tokens, position, pages: [asPageId(3)], slot, sample }] });
        chosen.forEach((rows, layer) => (experts[layer] ??= []).push(...rows.map((row) => [...row])));
        answers.push(logSoftmax(logits[0]!));
        position += tokens.length;
      }
      const reference = referenceOf(program, weights, adapter, one.prompt, one.greedy, 0, (layer, row) => experts[layer]![row]);
      const errors = reference.steps.map(({ logprobs }, i) => {
        const top = [...logprobs.keys()].sort((a, b) => logprobs[b]! - logprobs[a]!).slice(0, 20);
        return Math.max(...top.map((id) => Math.abs(answers[i]![id]! - logprobs[id]!)));
      });
      const worst = Math.max(...errors);
      const leastMargin = Math.min(...reference.routes.margins);
      if (process.env["SHOW_ERRORS"] !== undefined) {
        console.log(
          `${one.name}: ${worst.toFixed(4)} of ${reference.bound.toFixed(4)}, ${decidedTokens(reference)} of ${one.greedy.length} tokens decided; ` +
            `least margin of an expert ${leastMargin.toFixed(4)} of ${(-reference.routes.bound).toFixed(4)}, ${decidedRoutes(reference)} of ${reference.routes.margins.length} choices decided`,
        );
      }
      expect(leastMargin).toBeGreaterThan(-reference.routes.bound);
      expect(worst).toBeLessThan(reference.bound);
      expect(worst).toBeGreaterThan(0);
      reference.steps.forEach(({ best, margin }, i) => {
        if (margin > reference.bound) expect(answers[i]!.indexOf(Math.max(...answers[i]!))).toBe(best);
      });
    } finally {
      await backend.close();
    }
  });
});
