/** Steps that the CUDA backend is given while another is under way, on a machine that has a device. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { Backend } from "../../src/backend/backend.ts";
import { asPageId, asSlotId, NO_SLOT, type SlotId } from "../../src/core/ids.ts";
import type { SampledToken } from "../../src/core/sampling.ts";
import { awaited, type Step, type StepResult } from "../../src/core/step.ts";
import { attach } from "../helpers/attach.ts";
import { noCudaReason, openCuda } from "../helpers/cuda.ts";
import { samplingWith } from "../helpers/sampling.ts";
import { randomAdapter, randomWeights, tinyProgram } from "../helpers/tiny-program.ts";
import { LIMITS, tokensOf } from "./cases.ts";

const SHAPE = { hidden: 256, layers: 2, heads: 8, kvHeads: 2, headDim: 64, ffn: 384, vocab: 500, maxContext: 4096 };
const NUM_STEPS = 24;
/** In the order of slots; one of them changes the embedding. */
const SLOTS: readonly SlotId[] = [NO_SLOT, NO_SLOT, asSlotId(0), asSlotId(1), asSlotId(1), asSlotId(2)];
const PAGES_PER_SEQUENCE = 3;

describe.skipIf(noCudaReason !== null)("cuda: one step ahead", () => {
  const program = tinyProgram(SHAPE);
  const weights = randomWeights(program, 5);
  let backend: Backend;
  beforeAll(async () => {
    backend = await openCuda({ ...LIMITS, maxRows: 256, program, weights, format: "bfloat16" });
    await attach(backend, asSlotId(0), await backend.stage(randomAdapter(program, 1, { ranks: [8] })));
    await attach(backend, asSlotId(1), await backend.stage(randomAdapter(program, 2, { ranks: [3, 20], coverage: 0.7 })));
    await attach(backend, asSlotId(2), await backend.stage(randomAdapter(program, 3, { ranks: [4], form: "embedding_lora" })));
  });
  afterAll(() => backend.close());

  const pagesOf = (sequence: number) => Array.from({ length: PAGES_PER_SEQUENCE }, (_, i) => asPageId(i * SLOTS.length + sequence));
  const sampleOf = (sequence: number, counter: number, temperature: number) => ({
    sampling: samplingWith({ temperature, seed: BigInt(100 + sequence), logprobs: 5 }),
    counter,
    adjustments: [],
  });
  /** A sequence sits out a step now and then, so that its sample has another index than its row had. */
  const isIn = (sequence: number, step: number): boolean => step === 0 || (step * 7 + sequence * 3) % 5 !== 0;

  /** Tokens of each sequence; of those of the step before, the last is known or awaited. */
  async function generate(temperature: number, ahead: boolean): Promise<SampledToken[][]> {
    const tokens = SLOTS.map((_, i) => tokensOf(20 + 9 * i, program.vocabSize, 40 + i));
    const prompts = tokens.map(({ length }) => length);
    const sampled: SampledToken[][] = SLOTS.map(() => []);
    const awaitedOf = SLOTS.map((): number | null => null);
    let before: { readonly sequences: readonly number[]; readonly result: Promise<StepResult> } | null = null;
    const settle = async (step: { readonly sequences: readonly number[]; readonly result: Promise<StepResult> }): Promise<void> => {
      const result = await step.result;
      for (const [i, sequence] of step.sequences.entries()) {
        tokens[sequence]!.push(result.sampled[i]!.id);
        sampled[sequence]!.push(result.sampled[i]!);
      }
    };
    for (let step = 0; step < NUM_STEPS; step++) {
      const sequences = [...SLOTS.keys()].filter((sequence) => isIn(sequence, step));
      const rows: Step = {
        sequences: sequences.map((sequence) => {
          const awaiting = awaitedOf[sequence]!;
          const known = tokens[sequence]!;
          const position = step === 0 ? 0 : known.length - (awaiting === null ? 1 : 0);
          const counter = known.length - prompts[sequence]! + (awaiting === null ? 0 : 1);
          return { tokens: step === 0 ? known : [awaiting === null ? known.at(-1)! : awaited(awaiting)], position, pages: pagesOf(sequence), slot: SLOTS[sequence]!, sample: sampleOf(sequence, counter, temperature) };
        }),
      };
      const given = { sequences, result: backend.run(rows) };
      if (before !== null) await settle(before);
      before = given;
      awaitedOf.fill(null);
      if (ahead) for (const [i, sequence] of sequences.entries()) awaitedOf[sequence] = i;
      else {
        await settle(given);
        before = null;
      }
    }
    if (before !== null) await settle(before);
    return sampled;
  }

  test.each([0, 1])("gives what it gives when the tokens are known, at temperature %p", async (temperature) => {
    const known = await generate(temperature, false);
    expect(known.map(({ length }) => length)).toEqual(SLOTS.map((_, sequence) => Array.from({ length: NUM_STEPS }, (__, step) => isIn(sequence, step)).filter(Boolean).length));
    for (let i = 0; i < 3; i++) expect(await generate(temperature, true)).toEqual(known);
  });

  const one = (token: number, page = 0): Step => ({ sequences: [{ tokens: [token], position: 0, pages: [asPageId(page)], slot: NO_SLOT, sample: sampleOf(0, 0, 0) }] });

  test("takes two at a time, and goes on after a third", async () => {
    const results = await Promise.allSettled([backend.run(one(1)), backend.run(one(awaited(0))), backend.run(one(awaited(0)))]);
    const [first, second] = results;
    expect([first.status, second.status]).toEqual(["fulfilled", "fulfilled"]);
    // On a fast device the first may be over before the third comes.
    const third = results[2];
    if (third.status === "rejected") expect(String(third.reason)).toContain("as many steps as it takes at once");
    expect((await backend.run(one(2))).sampled).toHaveLength(1);
  });

  test("refuses a sample that the step before does not have, and keeps the step under way", async () => {
    const alone = await backend.run(one(1));
    const under = backend.run(one(1));
    await expect(backend.run(one(awaited(1)))).rejects.toThrow("name a sample of the step before");
    expect((await under).sampled).toEqual(alone.sampled);
    // Nothing was given after it, so its sample is still the last.
    expect((await backend.run(one(awaited(0)))).sampled).toEqual((await backend.run(one(alone.sampled[0]!.id))).sampled);
  });

  test("an adapter of more ranks than any before makes room between steps under way", async () => {
    const alone = [await backend.run(one(3)), await backend.run(one(4))];
    const image = await backend.stage(randomAdapter(program, 9, { ranks: [300] }));
    const results = [backend.run(one(3)), backend.run(one(4))];
    await attach(backend, asSlotId(3), image);
    expect((await Promise.all(results)).map(({ sampled }) => sampled)).toEqual(alone.map(({ sampled }) => sampled));
  });
});
