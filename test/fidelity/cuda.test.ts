/**
 * Checkpoints and adapters written by transformers and PEFT on a CUDA device, in bfloat16, against their float32.
 *
 * What bfloat16 may change is derived for each fixture by `test/helpers/bfloat16-noise.ts`; that the derivation leaves
 * something to check is tested on every machine.
 */
import { describe, expect, test } from "bun:test";
import { asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { attach } from "../helpers/attach.ts";
import { type Reference, referenceOf } from "../helpers/bfloat16-noise.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { type FixtureCase, NUM_DENSE_CASES, DENSE_CASES } from "../helpers/fixture-cases.ts";
import { growGreedily } from "../helpers/greedy-driver.ts";
import { samplingWith } from "../helpers/sampling.ts";

if (noCudaReason !== null) console.warn(`fixtures on a CUDA device are skipped: ${noCudaReason}`);

async function readCase(one: FixtureCase) {
  const program = buildDecoderProgram(readModelConfig(one.base));
  const weights = openCheckpoint(one.base);
  const adapter = one.adapter === null ? null : await readAdapter(one.adapter, program);
  return { program, weights, adapter, reference: referenceOf(program, weights, adapter, one.prompt, one.greedy, one.activeFrom) };
}

const decided = ({ steps, bound }: Reference): number => steps.filter(({ margin }) => margin > bound).length;

describe("the bound of bfloat16", () => {
  test("leaves many tokens to check, and the float64 executor picks them all as transformers and PEFT did", async () => {
    expect(DENSE_CASES.length).toBe(NUM_DENSE_CASES);
    let total = 0;
    let checked = 0;
    for (const one of DENSE_CASES) {
      const { reference } = await readCase(one);
      expect(reference.steps.map(({ best }) => best)).toEqual([...one.greedy]);
      expect(reference.bound).toBeGreaterThan(0);
      // The widest is that of an adapter which multiplies the noise of its base by three.
      expect(reference.bound).toBeLessThan(1.7);
      total += one.greedy.length;
      checked += decided(reference);
    }
    expect(checked / total).toBeGreaterThan(0.4);
  }, 60_000);
});

describe.skipIf(noCudaReason !== null)("bfloat16 on the CUDA backend", () => {
  test.each(DENSE_CASES.map((one) => [one.name, one] as const))("%s: log-probabilities and decided tokens within bfloat16", async (_, one) => {
    const { program, weights, adapter, reference } = await readCase(one);
    const backend = await openCuda({
      program,
      weights,
      format: "bfloat16",
      numThreads: 1,
      maxRows: 64,
      maxSequences: 4,
      numExtents: 8 + 1024,
      numPages: 8,
      numSlots: 1,
    });
    try {
      const slot = adapter === null ? NO_SLOT : asSlotId(0);
      if (adapter !== null) await attach(backend, slot, await backend.stage(adapter));
      const tokens = await growGreedily(backend, one.prompt, slot, samplingWith({ logprobs: 20 }), one.greedy.length, one.greedy, one.activeFrom);
      let worst = 0;
      reference.steps.forEach(({ logprobs, best, margin }, i) => {
        const { id, top } = tokens[i]!;
        expect(top.length).toBe(20);
        worst = Math.max(worst, ...top.map((each) => Math.abs(each.logprob - logprobs[each.id]!)));
        if (margin > reference.bound) expect(id).toBe(best);
      });
      if (process.env["SHOW_ERRORS"] !== undefined) {
        console.log(`${one.name}: ${worst.toFixed(4)} of ${reference.bound.toFixed(4)}, ${decided(reference)} of ${tokens.length} tokens decided`);
      }
      expect(worst).toBeLessThan(reference.bound);
      expect(worst).toBeGreaterThan(0);
    } finally {
      await backend.close();
    }
  });
});
