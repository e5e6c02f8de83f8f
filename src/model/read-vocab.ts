/** Vocabulary, merges and added tokens of a tokenizer.json. */
import { isJsonObject, type JsonValue } from "../formats/json.ts";
import type { AddedToken } from "./added-tokens.ts";
import { ConfigFields } from "./config-fields.ts";

/** Far above any vocabulary, and low enough that tables by id stay small. */
const MAX_ID = 2 ** 24 - 1;

/** The entries of a BPE or WordPiece vocabulary (an object) or a Unigram one (an array of pairs). */
export function readVocab(model: ConfigFields): ReadonlyMap<string, number> {
  const value = model.value("vocab");
  const expected = `an object of token ids from 0 to ${MAX_ID}, or an array of tokens and scores`;
  const vocab = new Map<string, number>();
  if (Array.isArray(value)) {
    for (const [id, entry] of (value as readonly JsonValue[]).entries()) {
      const token = Array.isArray(entry)
        ? (entry as readonly JsonValue[])[0]
        : undefined;
      if (typeof token !== "string" || id > MAX_ID)
        return model.invalid("vocab", expected);
      // The first of equal entries would never be looked up; Rust keeps the last.
      vocab.set(token, id);
    }
    return vocab;
  }
  if (!isJsonObject(value)) return model.invalid("vocab", expected);
  for (const [token, id] of Object.entries(value)) {
    if (!isTokenId(id)) return model.invalid("vocab", expected);
    vocab.set(token, id);
  }
  return vocab;
}

/** Merges in order, from `"a b"` or `["a", "b"]`. */
export function readMerges(
  model: ConfigFields,
): readonly (readonly [string, string])[] {
  return (model.array("merges") ?? []).map((merge) => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (Array.isArray(pair) && pair.length === 2) {
      const [left, right] = pair as readonly unknown[];
      if (typeof left === "string" && typeof right === "string")
        return [left, right] as const;
    }
    return model.invalid(
      "merges",
      "an array of pairs, each as one string or as two",
    );
  });
}

/** The `added_tokens` of a tokenizer.json. */
export function readAddedTokens(fields: ConfigFields): AddedToken[] {
  return (fields.array("added_tokens") ?? []).map((value, i) => {
    if (!isJsonObject(value))
      return fields.invalid("added_tokens", "an array of objects");
    const token = new ConfigFields(fields.file, value, `added_tokens[${i}].`);
    return readAddedToken(token, token.integer("id", { min: 0, max: MAX_ID }));
  });
}

/**
 * The `added_tokens_decoder` of a tokenizer_config.json, which names the same tokens by id and sometimes more.
 */
export function readAddedTokensDecoder(config: ConfigFields): AddedToken[] {
  const name = "added_tokens_decoder";
  const value = config.value(name);
  if (value === undefined) return [];
  const expected = `an object of tokens by id, from 0 to ${MAX_ID}`;
  if (!isJsonObject(value)) return config.invalid(name, expected);
  return Object.entries(value).map(([key, entry]) => {
    const id = /^\d{1,8}$/.test(key) ? Number(key) : -1;
    if (!isTokenId(id) || !isJsonObject(entry))
      return config.invalid(name, expected);
    return readAddedToken(
      new ConfigFields(config.file, entry, `${name}.${key}.`),
      id,
    );
  });
}

function readAddedToken(token: ConfigFields, id: number): AddedToken {
  const special = token.boolean("special", false);
  return {
    id,
    content: token.string("content") ?? token.invalid("content", "a string"),
    special,
    normalized: token.boolean("normalized", !special),
    singleWord: token.boolean("single_word", false),
    lstrip: token.boolean("lstrip", false),
    rstrip: token.boolean("rstrip", false),
  };
}

function isTokenId(value: JsonValue | undefined): value is number {
  return (
    typeof value === "number" &&
    Number.isInteger(value) &&
    value >= 0 &&
    value <= MAX_ID
  );
}
