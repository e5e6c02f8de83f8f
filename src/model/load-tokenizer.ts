/** Opens the tokenizer of a model directory. */
import type { JsonLimits } from "../formats/json.ts";
import type { AddedToken } from "./added-tokens.ts";
import { compileByteBpe } from "./byte-bpe.ts";
import { ConfigFields } from "./config-fields.ts";
import { JsonTokenizer } from "./json-tokenizer.ts";
import { compileLibraryModel } from "./library-tokenizer.ts";
import { readPostProcessor } from "./post-processor.ts";
import { readJsonFile } from "./read-json-file.ts";
import {
  readAddedTokens,
  readAddedTokensDecoder,
  readVocab,
} from "./read-vocab.ts";
import { compileTokenDecoder } from "./token-decoder.ts";
import { TokenTable } from "./token-table.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The largest vocabularies in use take some 40 MB. */
const TOKENIZER_LIMITS: JsonLimits = {
  maxBytes: 256 * 1024 * 1024,
  maxDepth: 32,
};

/**
 * @returns `null` when the directory has no tokenizer.json
 * @throws {ModelError} `model_invalid` naming file and field, or `model_unsupported` for a kind of tokenizer
 *   that cannot be followed exactly
 */
export async function loadTokenizer(
  directory: string,
): Promise<Tokenizer | null> {
  const file = "tokenizer.json";
  const object = readJsonFile(directory, file, TOKENIZER_LIMITS);
  if (object === undefined) return null;
  const fields = new ConfigFields(file, object);
  const configFile = "tokenizer_config.json";
  const config = readJsonFile(directory, configFile, TOKENIZER_LIMITS) ?? {};
  return compileTokenizer(
    fields,
    readAddedTokensDecoder(new ConfigFields(configFile, config)),
  );
}

/** @param extra tokens from elsewhere; those that tokenizer.json adds itself are left as it says */
export function compileTokenizer(
  fields: ConfigFields,
  extra: readonly AddedToken[] = [],
): Tokenizer {
  const model = fields.object("model") ?? fields.invalid("model", "an object");
  const added = readAddedTokens(fields);
  const known = new Set(added.map((token) => token.content));
  added.push(...extra.filter((token) => !known.has(token.content)));
  const vocab = readVocab(model);
  const specialIds = new Set(
    added.filter((token) => token.special).map((token) => token.id),
  );
  return new JsonTokenizer({
    table: new TokenTable(vocab, added, compileTokenDecoder(fields)),
    added,
    encoder:
      compileByteBpe(fields, specialIds) ?? compileLibraryModel(fields, vocab),
    surroundings: readPostProcessor(fields),
  });
}
