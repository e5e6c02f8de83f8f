/** Cuts text into the words that are encoded one by one. */
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
} from "../formats/json.ts";
import { translateSplitRegex } from "./split-regex.ts";

/** Every character of the text is in exactly one word, and words are never empty. */
export type WordSplitter = (text: string) => readonly string[];

/** @source OpenAI GPT-2, encoder.py */
const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
/** Rust's `char::is_numeric`, which `Digits` goes by. */
const DIGIT_PATTERN = "\\p{N}";

/**
 * @param config the `pre_tokenizer` of a tokenizer.json
 * @returns the words before their bytes are mapped, or `null` when the whole is not a byte-level split that
 *   can be done exactly
 */
export function compileByteLevelSplitter(
  config: JsonValue | undefined,
): WordSplitter | null {
  const steps = flatten(config);
  const last = steps?.pop();
  // The byte alphabet comes last: a step behind it would see mapped bytes instead of text.
  if (steps === undefined || last?.["type"] !== "ByteLevel") return null;
  const splitters = [...steps.map(compileStep), compileByteLevel(last)];
  if (!splitters.every((splitter) => splitter !== null)) return null;
  const [first, ...others] = splitters as [WordSplitter, ...WordSplitter[]];
  if (others.length === 0) return first;
  return (text) =>
    others.reduce((words, splitter) => splitAll(words, splitter), first(text));
}

function splitAll(
  words: readonly string[],
  splitter: WordSplitter,
): readonly string[] {
  return splitter === keepWhole ? words : words.flatMap(splitter);
}

function keepWhole(text: string): readonly string[] {
  return [text];
}

function flatten(config: JsonValue | undefined): JsonObject[] | undefined {
  if (!isJsonObject(config)) return undefined;
  if (config["type"] !== "Sequence") return [config];
  const steps = config["pretokenizers"];
  if (!Array.isArray(steps)) return undefined;
  const flat = (steps as readonly JsonValue[]).map(flatten);
  return flat.every((step) => step !== undefined) ? flat.flat() : undefined;
}

function compileStep(step: JsonObject): WordSplitter | null {
  if (step["type"] === "Digits") {
    return isolate(
      step["individual_digits"] === true ? DIGIT_PATTERN : `${DIGIT_PATTERN}+`,
    );
  }
  const pattern = step["pattern"];
  if (
    step["type"] !== "Split" ||
    step["behavior"] !== "Isolated" ||
    !isJsonObject(pattern)
  ) {
    return null;
  }
  if (step["invert"] === true) return null;
  const { Regex: regex } = pattern;
  return typeof regex === "string" ? isolate(regex) : null;
}

function compileByteLevel(step: JsonObject): WordSplitter | null {
  const split = step["use_regex"] === false ? keepWhole : isolate(GPT2_PATTERN);
  if (step["add_prefix_space"] !== true || split === null) return split;
  return (text) => split(text.startsWith(" ") ? text : ` ${text}`);
}

/** Matches become words, and so does what lies between them. */
function isolate(pattern: string): WordSplitter | null {
  const regex = translateSplitRegex(pattern);
  if (regex === null) return null;
  return (text) => {
    const words = text.match(regex);
    if (words === null) return text === "" ? [] : [text];
    let length = 0;
    for (const word of words) {
      if (word.length === 0) return isolateWithGaps(text, regex);
      length += word.length;
    }
    return length === text.length ? words : isolateWithGaps(text, regex);
  };
}

function isolateWithGaps(text: string, regex: RegExp): readonly string[] {
  const words: string[] = [];
  let end = 0;
  for (const match of text.matchAll(regex)) {
    if (match.index > end) words.push(text.slice(end, match.index));
    if (match[0].length > 0) words.push(match[0]);
    end = match.index + match[0].length;
  }
  if (end < text.length) words.push(text.slice(end));
  return words;
}
