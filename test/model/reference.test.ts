/** Programs of checkpoints made by transformers, run in plain loops, against what transformers computes. */
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openModel } from "../../src/model/load-model.ts";
import { ReferenceExecutor } from "../helpers/reference-executor.ts";

interface Golden {
  readonly adapter?: string | null;
  readonly input_ids: number[];
  readonly last_logits: number[];
  /** New tokens, end tokens ignored. */
  readonly greedy: number[];
}

const FIXTURES = join(import.meta.dir, "../fixtures");
const readGolden = (set: string, file = "golden.json"): Record<string, Golden> =>
  JSON.parse(readFileSync(join(FIXTURES, set, file), "utf8")) as Record<string, Golden>;

function openReference(directory: string): ReferenceExecutor {
  const { program, weights } = openModel(directory);
  return new ReferenceExecutor(program, weights);
}

function expectLogits(actual: Float64Array, expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  expect(Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!)))).toBeLessThan(1e-5);
}

const argmax = (values: Float64Array): number => values.indexOf(Math.max(...values));

describe("the program of every architecture", () => {
  const golden = { ...readGolden("architectures"), ...readGolden("experts") };
  const bases = Object.keys(golden).filter((name) => golden[name]!.adapter === null);

  const directoryOf = (name: string): string =>
    ["architectures", "experts"].map((set) => join(FIXTURES, set, name)).find((path) => existsSync(path))!;

  test("has a checkpoint here", () => {
    expect(bases.toSorted()).toEqual([
      "llama3_rope",
      "llama_bias",
      "llama_linear",
      "mistral",
      "mixtral",
      "phi3",
      "phi3_longrope",
      "qwen2",
      "qwen3",
      "qwen3_bias",
      "qwen3_moe",
      "qwen3_step",
    ]);
  });

  test.each(bases)("computes the reference's logits and greedy tokens: %s", (name) => {
    const { input_ids, last_logits, greedy } = golden[name]!;
    const executor = openReference(directoryOf(name));
    expectLogits(executor.logits(input_ids), last_logits);
    const tokens = [...input_ids];
    for (let i = 0; i < greedy.length; i++) tokens.push(argmax(executor.logits(tokens)));
    expect(tokens.slice(input_ids.length)).toEqual(greedy);
  });
});

describe("the program of the PEFT fixtures' bases", () => {
  const golden = { ...readGolden("peft"), ...readGolden("peft", "golden_moe.json") };

  test.each(["base_llama", "base_phi3", "base_mixtral"])("computes the reference's logits: %s", (name) => {
    const { input_ids, last_logits } = golden[`_${name}`]!;
    expectLogits(openReference(join(FIXTURES, "peft", name)).logits(input_ids), last_logits);
  });
});
