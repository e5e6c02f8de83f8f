/** Programs of checkpoints made by transformers, run in plain loops, against what transformers computes. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkWeights } from "../../src/model/check-weights.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { ReferenceExecutor } from "../helpers/reference-executor.ts";

interface Golden {
  readonly adapter?: string | null;
  readonly input_ids: number[];
  readonly last_logits: number[];
  /** New tokens, end tokens ignored. */
  readonly greedy: number[];
}

const FIXTURES = join(import.meta.dir, "../fixtures");
const readGolden = (set: string): Record<string, Golden> =>
  JSON.parse(readFileSync(join(FIXTURES, set, "golden.json"), "utf8")) as Record<string, Golden>;

function openReference(directory: string): ReferenceExecutor {
  const program = buildDecoderProgram(readModelConfig(directory));
  const checkpoint = openCheckpoint(directory);
  checkWeights(program, checkpoint);
  return new ReferenceExecutor(program, checkpoint);
}

function expectLogits(actual: Float64Array, expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  expect(Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!)))).toBeLessThan(1e-5);
}

const argmax = (values: Float64Array): number => values.indexOf(Math.max(...values));

describe("the program of every architecture", () => {
  const golden = readGolden("architectures");
  const bases = Object.keys(golden).filter((name) => golden[name]!.adapter === null);

  test("has a checkpoint here", () => {
    expect(bases.toSorted()).toEqual([
      "llama3_rope",
      "llama_bias",
      "llama_linear",
      "mistral",
      "phi3",
      "phi3_longrope",
      "qwen2",
      "qwen3",
      "qwen3_bias",
    ]);
  });

  test.each(bases)("computes the reference's logits and greedy tokens: %s", (name) => {
    const { input_ids, last_logits, greedy } = golden[name]!;
    const executor = openReference(join(FIXTURES, "architectures", name));
    expectLogits(executor.logits(input_ids), last_logits);
    const tokens = [...input_ids];
    for (let i = 0; i < greedy.length; i++) tokens.push(argmax(executor.logits(tokens)));
    expect(tokens.slice(input_ids.length)).toEqual(greedy);
  });
});

describe("the program of the PEFT fixtures' bases", () => {
  const golden = readGolden("peft");

  test.each(["base_llama", "base_phi3"])("computes the reference's logits: %s", (name) => {
    const { input_ids, last_logits } = golden[`_${name}`]!;
    expectLogits(openReference(join(FIXTURES, "peft", name)).logits(input_ids), last_logits);
  });
});
