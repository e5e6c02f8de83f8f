import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { ModelError } from "../../src/core/errors.ts";
import {
  parseGenerationDefaults,
  readGenerationDefaults,
} from "../../src/model/generation-config.ts";
import type { Json } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

const parse = (generation: Record<string, Json>, config: Record<string, Json> = {}) =>
  parseGenerationDefaults(generation, config, 100);

describe("generation defaults", () => {
  test("of the demo model come from generation_config.json", () => {
    expect(readGenerationDefaults(join(import.meta.dir, "../../models/demo"), 4096)).toEqual({ eosTokenIds: [1, 4] });
  });

  test("fall back to config.json", () => {
    expect(parse({ bos_token_id: 1 }, { eos_token_id: 2 }).eosTokenIds).toEqual([2]);
    expect(parse({ eos_token_id: null }, { eos_token_id: [7, 7, 8] }).eosTokenIds).toEqual([7, 8]);
  });

  test("are empty where no file speaks of them", () => {
    expect(parse({})).toEqual({ eosTokenIds: [] });
  });

  test("leave ids alone that mean nothing here, whatever training tools left in them", () => {
    expect(parse({ bos_token_id: -1, pad_token_id: "<pad>", eos_token_id: 2 }).eosTokenIds).toEqual([2]);
  });

  const bad: readonly (readonly [Record<string, Json>, string])[] = [
    [
      { eos_token_id: 100 },
      "eos_token_id in generation_config.json must be a token id below vocab_size (100), or an array of them, got 100",
    ],
    [
      { eos_token_id: [1, "2"] },
      "eos_token_id in generation_config.json must be a token id below vocab_size (100), or an array of them, got an array",
    ],
    [{ eos_token_id: -1 }, "or an array of them, got -1"],
  ];
  test.each(bad)("refuse %j", (generation, message) => {
    const thrown = thrownBy(() => parse(generation)) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain(message);
  });

  test("name config.json where the fault is there", () => {
    expect(() => parse({}, { eos_token_id: 100 })).toThrow("eos_token_id in config.json");
  });
});
