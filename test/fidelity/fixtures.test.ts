/**
 * Checkpoints and adapters written by transformers and PEFT, and archives in NeMo's layout, run on the shipped kernels, against what
 * transformers and PEFT compute in float32.
 */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { asSlotId, NO_SLOT } from "../../src/core/ids.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { growGreedily } from "../helpers/greedy-driver.ts";
import { logSoftmax } from "../helpers/reference-executor.ts";
import { samplingWith } from "../helpers/sampling.ts";

interface Golden {
  readonly base: string;
  readonly adapter?: string | null;
  readonly input_ids: readonly number[];
  readonly last_logits: readonly number[];
  readonly greedy: readonly number[];
}

const FIXTURES = join(import.meta.dir, "../fixtures");
const END_TOKEN = 2;
/** Of log-probabilities, in float32. */
const TOLERANCE = 1e-4;
/** PEFT forms of the fixture set that this version refuses; `test/lora` checks how. */
const REFUSED = new Set(["dora", "embed_lmhead", "saved_head", "tokens"]);

interface Case {
  readonly name: string;
  readonly base: string;
  readonly adapter: string | null;
  readonly prompt: readonly number[];
  readonly logits: readonly number[];
  readonly greedy: readonly number[];
}

function peftCases(): Case[] {
  const golden = JSON.parse(readFileSync(join(FIXTURES, "peft/golden.json"), "utf8")) as Record<string, Golden>;
  return Object.entries(golden)
    .filter(([name]) => !REFUSED.has(name))
    .map(([name, { base, input_ids, last_logits, greedy }]) => ({
      name: `peft/${name}`,
      base: join(FIXTURES, "peft", base),
      adapter: name.startsWith("_") ? null : join(FIXTURES, "peft", name),
      prompt: input_ids,
      logits: last_logits,
      greedy: greedy.slice(input_ids.length),
    }));
}

function architectureCases(): Case[] {
  const golden = JSON.parse(readFileSync(join(FIXTURES, "architectures/golden.json"), "utf8")) as Record<string, Golden>;
  return Object.entries(golden).map(([name, { base, adapter, input_ids, last_logits, greedy }]) => ({
    name: `architectures/${name}`,
    base: join(FIXTURES, "architectures", base),
    adapter: adapter == null ? null : join(FIXTURES, "architectures", adapter),
    prompt: input_ids,
    logits: last_logits,
    greedy,
  }));
}

function nemoCases(): Case[] {
  const golden = JSON.parse(readFileSync(join(FIXTURES, "peft/nemo/golden.json"), "utf8")) as Record<string, Golden>;
  return Object.entries(golden).map(([name, { base, input_ids, last_logits, greedy }]) => ({
    name: `nemo/${name}`,
    base: join(FIXTURES, "peft", base),
    adapter: join(FIXTURES, "peft/nemo", `${name}.nemo`),
    prompt: input_ids,
    logits: last_logits,
    greedy: greedy.slice(input_ids.length),
  }));
}

const cases = [...peftCases(), ...nemoCases(), ...architectureCases()];

describe("float32 on the WASM backend", () => {
  test("covers every dense fixture", () => {
    expect(cases.length).toBe(12 + 6 + 27);
  });

  test.each(cases.map((one) => [one.name, one] as const))("%s: logits within 1e-4, greedy tokens equal", async (_, one) => {
    const program = buildDecoderProgram(readModelConfig(one.base));
    const backend = await openWasmBackend({
      program,
      weights: openCheckpoint(one.base),
      format: "float32",
      numThreads: 2,
      maxRows: 64,
      maxSequences: 4,
      numPages: 8,
      numSlots: 1,
      adapterBytes: 1 << 20,
    });
    try {
      let slot = NO_SLOT;
      if (one.adapter !== null) {
        slot = asSlotId(0);
        await backend.attach(slot, await backend.stage(await readAdapter(one.adapter, program)));
      }
      const expected = logSoftmax(Float64Array.from(one.logits));
      const tokens = await growGreedily(backend, one.prompt, slot, samplingWith({ logprobs: 20 }), one.greedy.length);
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
