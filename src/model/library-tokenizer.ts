/**
 * Every other kind of vocabulary (SentencePiece-style BPE, Unigram, WordPiece), encoded by
 * `@huggingface/tokenizers`.
 *
 * The library only turns plain text into tokens. Added tokens, post-processing and decoding are ours for
 * every tokenizer, so they behave alike and a stream of tokens decodes as the whole does.
 */
import { Tokenizer as Library } from "@huggingface/tokenizers";
import { ModelError } from "../core/errors.ts";
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
} from "../formats/json.ts";
import type { ConfigFields } from "./config-fields.ts";
import type { SectionEncoder } from "./section-encoder.ts";

/**
 * @param fields a whole tokenizer.json
 * @param vocab its entries
 * @throws {ModelError} `model_unsupported` for parts that the library does not know or does differently
 */
export function compileLibraryModel(
  fields: ConfigFields,
  vocab: ReadonlyMap<string, number>,
): SectionEncoder {
  const model = fields.object("model") ?? fields.invalid("model", "an object");
  const type = model.string("type");
  if (type !== "BPE" && type !== "Unigram" && type !== "WordPiece") {
    return model.unsupported("type", "BPE, Unigram, WordPiece");
  }
  if (model.has("dropout") && model.value("dropout") !== 0)
    model.unsupported("dropout", "none");
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (type === "BPE" && model.has(name) && model.value(name) !== "") {
      return model.unsupported(name, "none");
    }
  }
  checkSplits(fields);
  return new LibraryModel(openLibrary(fields), {
    vocab,
    byteIds: model.boolean("byte_fallback", false) ? byteEntries(vocab) : null,
    splitBefore: metaspaceMark(fields.value("pre_tokenizer")),
  });
}

function openLibrary(fields: ConfigFields): Library {
  const part = (name: string): JsonValue => fields.value(name) ?? null;
  const json = {
    added_tokens: [],
    normalizer: part("normalizer"),
    pre_tokenizer: part("pre_tokenizer"),
    model: part("model"),
    post_processor: null,
    decoder: null,
  };
  try {
    return new Library(json, { clean_up_tokenization_spaces: false });
  } catch (cause) {
    throw new ModelError(
      "model_unsupported",
      `${fields.file} has a part that is not supported: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/** The library knows only two of the ways in which Split can treat what it finds. */
function checkSplits(fields: ConfigFields): void {
  for (const step of steps(fields.value("pre_tokenizer"), "pretokenizers")) {
    const { type, behavior } = step;
    if (type !== "Split" || behavior === "Isolated" || behavior === "Removed")
      continue;
    if (isSpace(step["pattern"]) && replacesSpaces(fields)) continue;
    fields.unsupported(
      "pre_tokenizer",
      "Split with behavior Isolated or Removed",
    );
  }
}

/** Then no text has a space left to split at. */
function replacesSpaces(fields: ConfigFields): boolean {
  return steps(fields.value("normalizer"), "normalizers").some(
    (step) => step["type"] === "Replace" && isSpace(step["pattern"]),
  );
}

function isSpace(pattern: JsonValue | undefined): boolean {
  return isJsonObject(pattern) && pattern["String"] === " ";
}

function steps(
  config: JsonValue | undefined,
  listName: string,
): readonly JsonObject[] {
  if (!isJsonObject(config)) return [];
  const list = config[listName];
  if (!Array.isArray(list)) return [config];
  return (list as readonly JsonValue[]).flatMap((step) =>
    steps(step, listName),
  );
}

/** The character before which Metaspace starts a new word, a step that the library leaves out. */
function metaspaceMark(config: JsonValue | undefined): string | null {
  const last = steps(config, "pretokenizers").at(-1);
  if (last?.["type"] !== "Metaspace" || last["split"] === false) return null;
  return typeof last["replacement"] === "string"
    ? last["replacement"]
    : "\u2581";
}

/** Ids of `<0x00>` to `<0xFF>`; `null` unless all are there, as the original has it. */
function byteEntries(
  vocab: ReadonlyMap<string, number>,
): readonly number[] | null {
  const ids = Array.from({ length: 256 }, (_, byte) =>
    vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  return ids.every((id) => id !== undefined) ? ids : null;
}

interface LibraryModelParts {
  readonly vocab: ReadonlyMap<string, number>;
  readonly byteIds: readonly number[] | null;
  readonly splitBefore: string | null;
}

class LibraryModel implements SectionEncoder {
  readonly #library: Library;
  readonly #parts: LibraryModelParts;
  readonly #unknownId: number | undefined;
  readonly #encoder = new TextEncoder();

  constructor(library: Library, parts: LibraryModelParts) {
    this.#library = library;
    this.#parts = parts;
    this.#unknownId = library.model?.unk_token_id ?? undefined;
  }

  normalize(text: string): string {
    const { normalizer } = this.#library;
    return normalizer === null ? text : normalizer.normalize(text);
  }

  encode(text: string, isFirst: boolean, out: number[]): void {
    const { pre_tokenizer: splitter, model } = this.#library;
    if (text === "" || model === null) return;
    const options = { section_index: isFirst ? 0 : 1 };
    const words =
      splitter === null ? [text] : splitter.pre_tokenize(text, options);
    // One word at a time: the library passes all tokens of a call as arguments of another.
    for (const word of this.#splitWords(words)) {
      for (const entry of model._call([word])) this.#pushEntry(entry, out);
    }
  }

  #splitWords(words: readonly string[]): readonly string[] {
    const { splitBefore } = this.#parts;
    if (splitBefore === null) return words;
    return words.flatMap((word) => {
      const [first, ...others] = word.split(splitBefore);
      const rest = others.map((part) => splitBefore + part);
      return first === undefined || first === "" ? rest : [first, ...rest];
    });
  }

  #pushEntry(entry: string, out: number[]): void {
    const id = this.#parts.vocab.get(entry);
    if (id !== undefined) {
      out.push(id);
    } else if (this.#parts.byteIds !== null) {
      for (const byte of this.#encoder.encode(entry))
        out.push(this.#parts.byteIds[byte]!);
    } else if (this.#unknownId !== undefined) {
      out.push(this.#unknownId);
    }
  }
}
