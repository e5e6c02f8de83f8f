/** A tokenizer of any size, made up: byte-level byte-pair encoding as Llama 3 has it, over words that mean nothing. */
import { BYTE_CHARS } from "../../src/model/byte-level.ts";
import { ConfigFields } from "../../src/model/config-fields.ts";
import { compileTokenizer } from "../../src/model/load-tokenizer.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { randomSource } from "./random-model.ts";

const LETTERS = "abcdefghijklmnopqrstuvwxyz".split("");
const SPACE = BYTE_CHARS[32]!;
const MAX_WORD_CHARS = 12;
const PATTERN = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export interface SyntheticTokenizer {
  readonly tokenizer: Tokenizer;
  /** Ids of words with a space in front; their text in a row encodes to about as many tokens. */
  readonly words: readonly number[];
}

/** @param vocabSize at least 1,024; 256 bytes, then merges of two earlier tokens each */
export function syntheticTokenizer(vocabSize: number, seed = 17): SyntheticTokenizer {
  const random = randomSource(seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const vocab: Record<string, number> = Object.fromEntries(BYTE_CHARS.map((char, id) => [char, id]));
  const merges: [string, string][] = [];
  const starts = [SPACE, ...LETTERS];
  const rests = [...LETTERS];
  const words: number[] = [];
  for (let id = BYTE_CHARS.length; id < vocabSize; ) {
    const [left, right] = [pick(starts), pick(rests)];
    const token = left + right;
    if (token.length > MAX_WORD_CHARS || vocab[token] !== undefined) continue;
    merges.push([left, right]);
    starts.push(token);
    if (token.startsWith(SPACE)) words.push(id);
    else rests.push(token);
    vocab[token] = id++;
  }
  const json = {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: PATTERN }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", unk_token: null, byte_fallback: false, ignore_merges: true, vocab, merges: merges.map(([left, right]) => [left, right]) },
  };
  return { tokenizer: compileTokenizer(new ConfigFields("tokenizer.json", json)), words };
}
