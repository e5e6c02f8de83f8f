/** `generation_config.json`: the token ids that end and begin a sequence, with `config.json` behind it. */
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
  const sources = [
    new ConfigFields("generation_config.json", generation),
    new ConfigFields("config.json", config),
  ];
  const owner = (name: string): ConfigFields =>
    sources.find((fields) => fields.has(name)) ?? sources[0]!;
  const ids = { min: 0, max: vocabSize - 1 };
  const optional = (name: string): number | null =>
    owner(name).has(name) ? owner(name).integer(name, ids) : null;
  return {
    eosTokenIds: readEndIds(owner("eos_token_id"), vocabSize),
    bosTokenId: optional("bos_token_id"),
    padTokenId: readPadId(owner("pad_token_id"), vocabSize),
  };
}

/** Nothing is padded here, so an id that training tools left at -1 or beyond the vocabulary is no id. */
function readPadId(fields: ConfigFields, vocabSize: number): number | null {
  if (!fields.has("pad_token_id")) return null;
  const id = fields.integer("pad_token_id", { min: -1, max: 2 ** 31 - 1 });
  return id >= 0 && id < vocabSize ? id : null;
}

function readEndIds(fields: ConfigFields, vocabSize: number): number[] {
  const name = "eos_token_id";
  const value = fields.value(name);
  if (value === undefined) return [];
  const ids = Array.isArray(value) ? (value as readonly unknown[]) : [value];
  const valid = ids.filter(
    (id): id is number =>
      typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize,
  );
  if (valid.length !== ids.length) {
    return fields.invalid(name, `a token id below vocab_size (${vocabSize}), or an array of them`);
  }
  return [...new Set(valid)];
}
