/** tokenizer.json files of many kinds, small enough to read: the demo model's words cut in other ways. */
import demo from "../../models/demo/tokenizer.json";
import type { JsonObject } from "../../src/formats/json.ts";
import { ConfigFields } from "../../src/model/config-fields.ts";
import { compileTokenizer } from "../../src/model/load-tokenizer.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";

type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | { readonly [key: string]: Json };
type JsonFields = { readonly [key: string]: Json };

export interface Variant {
  readonly name: string;
  readonly base: () => JsonFields;
  readonly changes: JsonFields;
  /** Changes to the model alone. */
  readonly model?: JsonFields;
  readonly added?: readonly JsonFields[];
}

export function variantJson({
  base,
  changes,
  model = {},
  added = [],
}: Variant): JsonObject {
  const json = { ...base(), ...changes };
  return JSON.parse(
    JSON.stringify({
      ...json,
      model: { ...(json["model"] as JsonFields), ...model },
      added_tokens: [...(json["added_tokens"] as readonly Json[]), ...added],
    }),
  ) as JsonObject;
}

export function variantTokenizer(variant: Variant): Tokenizer {
  return compileTokenizer(
    new ConfigFields("tokenizer.json", variantJson(variant)),
  );
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
export const LLAMA3 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${REST}`;
export const QWEN2 = LLAMA3.replace("{1,3}", "");
const GPT4 = `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`;
const HEADS = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const TAILS = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const O200K = `[^\\r\\n\\p{L}\\p{N}]?${HEADS}*${TAILS}+${CONTRACTIONS}?|[^\\r\\n\\p{L}\\p{N}]?${HEADS}+${TAILS}*${CONTRACTIONS}?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${REST}`;
const DEEPSEEK =
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export const isolated = (regex: string): JsonFields => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});
export const byteLevel = (changes: JsonFields = {}): JsonFields => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
  ...changes,
});
export const sequence = (
  ...pretokenizers: readonly JsonFields[]
): JsonFields => ({
  type: "Sequence",
  pretokenizers,
});
const regexThenBytes = (...regexes: readonly string[]): JsonFields =>
  sequence(...regexes.map(isolated), byteLevel({ use_regex: false }));

const demoBase = (): JsonFields => demo as unknown as JsonFields;
const byteVariant = (
  name: string,
  pretokenizer: JsonFields,
  changes: JsonFields = {},
  model: JsonFields = {},
): Variant => ({
  name,
  base: demoBase,
  changes: { pre_tokenizer: pretokenizer, ...changes },
  model,
});

/** An added token with nothing special about it. */
export const addedToken = (
  id: number,
  content: string,
  changes: JsonFields = {},
): JsonFields => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: false,
  ...changes,
});

export const BYTE_LEVEL_VARIANTS: readonly Variant[] = [
  { name: "demo", base: demoBase, changes: {} },
  byteVariant("Llama 3", regexThenBytes(LLAMA3)),
  byteVariant(
    "Llama 3, ignoring merges",
    regexThenBytes(LLAMA3),
    {},
    { ignore_merges: true },
  ),
  byteVariant("Qwen 2", regexThenBytes(QWEN2), { normalizer: { type: "NFC" } }),
  byteVariant("GPT-4", regexThenBytes(GPT4)),
  byteVariant("o200k", regexThenBytes(O200K)),
  byteVariant("GPT-2", byteLevel()),
  byteVariant("RoBERTa", byteLevel({ add_prefix_space: true }), {
    post_processor: {
      type: "RobertaProcessing",
      sep: ["<|end_of_text|>", 1],
      cls: ["<|begin_of_text|>", 0],
      trim_offsets: true,
      add_prefix_space: true,
    },
  }),
  byteVariant(
    "SmolLM",
    sequence({ type: "Digits", individual_digits: true }, byteLevel()),
  ),
  byteVariant(
    "digits together",
    sequence(
      { type: "Digits", individual_digits: false },
      byteLevel({ add_prefix_space: true }),
    ),
  ),
  byteVariant(
    "DeepSeek",
    regexThenBytes("\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK),
  ),
  byteVariant("empty matches", regexThenBytes("(?=\\d)|x{2,}|(?<=l)o")),
  {
    name: "added tokens",
    base: demoBase,
    changes: {
      normalizer: { type: "Sequence", normalizers: [{ type: "NFC" }] },
    },
    added: [
      addedToken(2320, "<s>", { special: true }),
      addedToken(2321, "foo", { single_word: true }),
      addedToken(2322, "<l>", { special: true, lstrip: true }),
      addedToken(2323, "<r>", {
        special: true,
        rstrip: true,
        normalized: true,
      }),
      addedToken(2324, "e\u0301x", { normalized: true }),
      addedToken(2325, "<s><s>"),
    ],
  },
];

/** A vocabulary in the style of SentencePiece, with the byte tokens of Llama 2. */
function pieces(): {
  readonly vocab: Record<string, number>;
  readonly merges: [string, string][];
} {
  const entries = new Set(["<unk>", "<s>", "</s>"]);
  for (let byte = 0; byte < 256; byte++) {
    entries.add(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  }
  for (const char of "▁abcdefghijklmnopqrstuvwxyzHX.é") entries.add(char);
  const merges: [string, string][] = [];
  const merge = (left: string, right: string): void => {
    if (entries.has(left + right)) return;
    merges.push([left, right]);
    entries.add(left + right);
  };
  const words = [
    "▁▁▁▁",
    "▁the",
    "▁cat",
    "at",
    "he",
    "▁Hello",
    "ll",
    "▁foo",
    "oo",
  ];
  for (const word of words)
    for (let i = 1; i < word.length; i++) merge(word.slice(0, i), word[i]!);
  return {
    vocab: Object.fromEntries([...entries].map((entry, id) => [entry, id])),
    merges,
  };
}

const PIECES = pieces();
const NUM_PIECES = Object.keys(PIECES.vocab).length;
const special = (
  id: number,
  content: string,
  changes: JsonFields = {},
): JsonFields => addedToken(id, content, { special: true, ...changes });

/** Llama 2 as it was first published. */
export const sentencePieceBase = (): JsonFields => ({
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: [
    special(0, "<unk>"),
    special(1, "<s>"),
    special(2, "</s>"),
    special(NUM_PIECES, "<|user|>", { rstrip: true }),
    addedToken(NUM_PIECES + 1, "▁▁▁"),
  ],
  normalizer: {
    type: "Sequence",
    normalizers: [
      { type: "Prepend", prepend: "▁" },
      { type: "Replace", pattern: { String: " " }, content: "▁" },
    ],
  },
  pre_tokenizer: null,
  post_processor: {
    type: "TemplateProcessing",
    single: [
      { SpecialToken: { id: "<s>", type_id: 0 } },
      { Sequence: { id: "A", type_id: 0 } },
    ],
    pair: [
      { Sequence: { id: "A", type_id: 0 } },
      { Sequence: { id: "B", type_id: 1 } },
    ],
    special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
  },
  decoder: {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: "▁" }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ],
  },
  model: {
    type: "BPE",
    dropout: null,
    unk_token: "<unk>",
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
    vocab: PIECES.vocab,
    merges: PIECES.merges,
  },
});

const metaspace = (scheme: string, split: boolean): JsonFields => ({
  type: "Metaspace",
  replacement: "▁",
  prepend_scheme: scheme,
  split,
});

const UNIGRAM: JsonFields = {
  type: "Unigram",
  unk_id: 0,
  byte_fallback: false,
  vocab: [
    ["<unk>", 0],
    ["<s>", 0],
    ["</s>", 0],
    ["▁", -3],
    ["▁▁", -4.5],
    ["▁the", -3.5],
    ["▁cat", -4],
    ["at", -4.1],
    ["he", -4.2],
    ["▁Hello", -6],
    ["ll", -4.4],
    ...Array.from(
      "abcdefghijklmnopqrstuvwxyzHX.",
      (char, i) => [char, -5 - i / 10] as const,
    ),
    ...Object.keys(PIECES.vocab)
      .filter((entry) => entry.startsWith("<0x"))
      .map((entry) => [entry, -20] as const),
  ],
};
const UNIGRAM_TOKENS = [
  special(0, "<unk>"),
  special(1, "<s>"),
  special(2, "</s>"),
];

const pieceVariant = (
  name: string,
  changes: JsonFields,
  model: JsonFields = {},
): Variant => ({
  name,
  base: sentencePieceBase,
  changes,
  model,
});

export const SENTENCEPIECE_VARIANTS: readonly Variant[] = [
  pieceVariant("Llama 2", {}),
  pieceVariant("without bytes", {}, { byte_fallback: false }),
  pieceVariant(
    "without bytes, unknown ones apart",
    {},
    { byte_fallback: false, fuse_unk: false },
  ),
  pieceVariant("Metaspace, first", {
    normalizer: null,
    pre_tokenizer: metaspace("first", false),
  }),
  pieceVariant("Metaspace, always", {
    normalizer: null,
    pre_tokenizer: metaspace("always", true),
    decoder: metaspace("always", true),
  }),
  pieceVariant("Metaspace, never", {
    normalizer: null,
    pre_tokenizer: metaspace("never", false),
    decoder: metaspace("never", true),
  }),
  pieceVariant("Gemma", {
    normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
    pre_tokenizer: {
      type: "Split",
      pattern: { String: " " },
      behavior: "MergedWithPrevious",
      invert: false,
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
  }),
  pieceVariant("Unigram", {
    added_tokens: UNIGRAM_TOKENS,
    normalizer: null,
    pre_tokenizer: metaspace("always", true),
    decoder: metaspace("always", true),
    model: UNIGRAM,
  }),
  pieceVariant("Unigram with bytes", {
    added_tokens: UNIGRAM_TOKENS,
    normalizer: null,
    pre_tokenizer: metaspace("always", true),
    model: { ...UNIGRAM, byte_fallback: true },
  }),
  pieceVariant("WordPiece", {
    added_tokens: [
      special(0, "[UNK]"),
      special(1, "[CLS]"),
      special(2, "[SEP]"),
    ],
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase: true,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "BertProcessing",
      sep: ["[SEP]", 2],
      cls: ["[CLS]", 1],
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(
        "[UNK] [CLS] [SEP] the cat hello x ##x foo ##1 1 22 . - _ ( ' s ll e ##s ! < >"
          .split(" ")
          .map((entry, id) => [entry, id]),
      ),
    },
  }),
];
