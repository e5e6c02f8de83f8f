/** `generation_config.json`: the token ids that end a sequence, with `config.json` behind it. */
import type { JsonObject } from "../formats/json.ts";
import { ConfigFields } from "./config-fields.ts";
import type { GenerationDefaults } from "./load-model.ts";
import { readJsonFile } from "./read-json-file.ts";

/** @param vocabSize ids must be below it */
export function readGenerationDefaults(directory: string, vocabSize: number): GenerationDefaults {
  return parseGenerationDefaults(
    readJsonFile(directory, "generation_config.json") ?? {},
    readJsonFile(directory, "config.json") ?? {},
    vocabSize,
  );
}

export function parseGenerationDefaults(
  generation: JsonObject,
  config: JsonObject,
  vocabSize: number,
): GenerationDefaults {
  const fields = new ConfigFields("generation_config.json", generation);
  return { eosTokenIds: readEndIds(fields.has(END) ? fields : new ConfigFields("config.json", config), vocabSize) };
}

const END = "eos_token_id";

function readEndIds(fields: ConfigFields, vocabSize: number): number[] {
  const value = fields.value(END);
  if (value === undefined) return [];
  const ids = Array.isArray(value) ? (value as readonly unknown[]) : [value];
  const valid = ids.filter(
    (id): id is number =>
      typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize,
  );
  if (valid.length !== ids.length) {
    return fields.invalid(END, `a token id below vocab_size (${vocabSize}), or an array of them`);
  }
  return [...new Set(valid)];
}
