/** Byte-level byte-pair encoding, as GPT-2, Llama 3 and Qwen use it. */
import { isJsonObject, type JsonValue } from "../formats/json.ts";
import { BYTE_CHARS, byteLevelBytes } from "./byte-level.ts";
import type { ConfigFields } from "./config-fields.ts";
import { MergeTable } from "./merge-table.ts";
import {
  compileByteLevelSplitter,
  type WordSplitter,
} from "./pre-tokenizer.ts";
import { readMerges, readVocab } from "./read-vocab.ts";
import type { SectionEncoder } from "./section-encoder.ts";

/** Longer words are rare and rarely come again. */
const MAX_CACHED_CHARS = 48;
const MAX_CACHED_WORDS = 32_768;

/**
 * @param fields a whole tokenizer.json
 * @param specialIds tokens that must never come out of plain text
 * @returns `null` when any part is something that this path does not do exactly as the original
 * @throws {ModelError} `model_invalid` for a vocabulary or merges that contradict each other
 */
export function compileByteBpe(
  fields: ConfigFields,
  specialIds: ReadonlySet<number>,
): SectionEncoder | null {
  const model = fields.object("model");
  if (model === undefined || !isPlainBpe(model)) return null;
  const normalize = compileNormalizer(fields.value("normalizer"));
  const splitter = compileByteLevelSplitter(fields.value("pre_tokenizer"));
  if (normalize === null || splitter === null) return null;
  const vocab = readVocab(model);
  const byteIds = BYTE_CHARS.map((char) => vocab.get(char));
  if (!byteIds.every((id) => id !== undefined)) return null;
  return new ByteBpe({
    normalize,
    splitter,
    byteIds: Int32Array.from(byteIds),
    merges: compileMerges(model, vocab, specialIds),
    wholeWords: model.boolean("ignore_merges", false)
      ? wholeWords(vocab, specialIds)
      : new Map(),
  });
}

function isPlainBpe(model: ConfigFields): boolean {
  const isEmpty = (name: string): boolean =>
    !model.has(name) || model.value(name) === "";
  return (
    model.value("type") === "BPE" &&
    isEmpty("continuing_subword_prefix") &&
    isEmpty("end_of_word_suffix") &&
    !model.boolean("byte_fallback", false) &&
    (!model.has("dropout") || model.value("dropout") === 0)
  );
}

type Normalize = (text: string) => string;

function compileNormalizer(config: JsonValue | undefined): Normalize | null {
  if (config === undefined) return (text) => text;
  if (!isJsonObject(config)) return null;
  if (config["type"] === "NFC") return (text) => text.normalize("NFC");
  const { type, normalizers: steps } = config;
  if (type !== "Sequence" || !Array.isArray(steps)) return null;
  const compiled = (steps as readonly JsonValue[]).map((step) =>
    compileNormalizer(step),
  );
  if (!compiled.every((step) => step !== null)) return null;
  return (text) => compiled.reduce((done, step) => step(done), text);
}

function compileMerges(
  model: ConfigFields,
  vocab: ReadonlyMap<string, number>,
  specialIds: ReadonlySet<number>,
): MergeTable {
  const numTokens = [...vocab.values()].reduce(
    (most, id) => Math.max(most, id + 1),
    0,
  );
  const table = new MergeTable(numTokens);
  for (const [left, right] of readMerges(model)) {
    const ids = [
      vocab.get(left),
      vocab.get(right),
      vocab.get(left + right),
    ] as const;
    const [leftId, rightId, mergedId] = ids;
    if (
      leftId === undefined ||
      rightId === undefined ||
      mergedId === undefined
    ) {
      return model.invalid(
        "merges",
        `pairs whose parts and result are in the vocabulary, unlike ${JSON.stringify(`${left} ${right}`)}`,
      );
    }
    if (specialIds.has(mergedId)) table.skip();
    else table.push(leftId, rightId, mergedId);
  }
  return table;
}

/** Vocabulary entries by the text that they stand for. */
function wholeWords(
  vocab: ReadonlyMap<string, number>,
  specialIds: ReadonlySet<number>,
): ReadonlyMap<string, number> {
  const words = new Map<string, number>();
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (const [entry, id] of vocab) {
    const bytes = specialIds.has(id) ? null : byteLevelBytes(entry);
    if (bytes === null) continue;
    try {
      words.set(decoder.decode(bytes), id);
    } catch {
      // Part of a character: no word is that.
    }
  }
  return words;
}

interface ByteBpeParts {
  readonly normalize: Normalize;
  readonly splitter: WordSplitter;
  /** `[256]` */
  readonly byteIds: Int32Array;
  readonly merges: MergeTable;
  /** Words that are one token whatever the merges say. */
  readonly wholeWords: ReadonlyMap<string, number>;
}

class ByteBpe implements SectionEncoder {
  readonly #parts: ByteBpeParts;
  readonly #cache = new Map<string, readonly number[]>();
  readonly #encoder = new TextEncoder();
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #bytes = new Uint8Array(1024);
  #ids = new Int32Array(1024);

  constructor(parts: ByteBpeParts) {
    this.#parts = parts;
  }

  normalize(text: string): string {
    return this.#parts.normalize(text);
  }

  encode(text: string, _isFirst: boolean, out: number[]): void {
    for (const word of this.#parts.splitter(text)) {
      const cached = this.#cache.get(word);
      if (cached === undefined) this.#encodeWord(word, out);
      else if (cached.length === 1) out.push(cached[0]!);
      else for (const id of cached) out.push(id);
    }
  }

  #encodeWord(word: string, out: number[]): void {
    const numBytes = this.#writeBytes(word);
    const from = out.length;
    const whole = this.#parts.wholeWords.get(word);
    if (whole !== undefined) {
      out.push(whole);
    } else {
      const ids = this.#ids;
      for (let i = 0; i < numBytes; i++)
        ids[i] = this.#parts.byteIds[this.#bytes[i]!]!;
      const numIds = this.#parts.merges.apply(ids, numBytes);
      for (let i = 0; i < numIds; i++) out.push(ids[i]!);
    }
    if (word.length > MAX_CACHED_CHARS) return;
    if (this.#cache.size >= MAX_CACHED_WORDS) this.#cache.clear();
    // A word is a slice that keeps its whole text alive; a key decoded anew is a copy.
    this.#cache.set(
      this.#decoder.decode(this.#bytes.subarray(0, numBytes)),
      out.slice(from),
    );
  }

  #writeBytes(word: string): number {
    const most = 3 * word.length;
    if (most > this.#bytes.length) {
      this.#bytes = new Uint8Array(most);
      this.#ids = new Int32Array(most);
    }
    return this.#encoder.encodeInto(word, this.#bytes).written;
  }
}
