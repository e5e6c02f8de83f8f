/**
 * Checkpoints and adapters written by transformers and PEFT, and archives in NeMo's layout, run on the shipped kernels, against what
 * transformers and PEFT compute in float32.
 */
import { describe, expect, test } from "bun:test";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { openModel } from "../../src/model/load-model.ts";
import { attach } from "../helpers/attach.ts";
import { FIXTURE_CASES, NUM_FIXTURE_CASES } from "../helpers/fixture-cases.ts";
import { growGreedily } from "../helpers/greedy-driver.ts";
import { logSoftmax } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";

const END_TOKEN = 2;
/** Of log-probabilities, in float32. */
const TOLERANCE = 1e-4;

describe("float32 on the WASM backend", () => {
  test("covers every fixture", () => {
    expect(FIXTURE_CASES.length).toBe(NUM_FIXTURE_CASES);
  });

  test.each(FIXTURE_CASES.map((one) => [one.name, one] as const))("%s: logits within 1e-4, greedy tokens equal", async (_, one) => {
    const { program, weights } = openModel(one.base);
    const backend = await openWasmBackend({
      program,
      weights,
      format: "float32",
      numThreads: 2,
      maxRows: 64,
      maxSequences: 4,
      numExtents: 8 + 1024,
      numPages: 8,
      numSlots: 1,
    });
    try {
      let slot = NO_SLOT;
      if (one.adapter !== null) {
        slot = asSlotId(0);
        await attach(backend, slot, await backend.stage(await readAdapter(one.adapter, program)));
      }
      const expected = logSoftmax(Float64Array.from(one.logits));
      const tokens = await growGreedily(backend, one.prompt, slot, samplingWith({ logprobs: 20 }), one.greedy.length, [], one.activeFrom);
      expect(tokens.map(({ id }) => id)).toEqual([...one.greedy]);
      const errors = tokens[0]!.top.map(({ id, logprob }) => Math.abs(logprob - expected[id]!));
      expect(errors.length).toBe(20);
      expect(Math.max(...errors)).toBeLessThan(TOLERANCE);
      // A reference that stopped early stopped at its end token.
      if (one.name.startsWith("peft/") && one.greedy.length < 8) expect(one.greedy.at(-1)).toBe(END_TOKEN);
    } finally {
      await backend.close();
    }
  });
});
