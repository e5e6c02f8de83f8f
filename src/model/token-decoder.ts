/** The `decoder` of a tokenizer.json: how vocabulary entries become text. */
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
} from "../formats/json.ts";
import { byteLevelBytes } from "./byte-level.ts";
import type { ConfigFields } from "./config-fields.ts";

export interface TokenDecoder {
  bytes(entry: string): Uint8Array;
  /** At the start of a text, where that differs. */
  firstBytes?(entry: string): Uint8Array;
  /** Whether added tokens say their content, rather than being entries like others. */
  readonly addedAsIs: boolean;
  /** Left out at the very start of a text. */
  readonly strip: { readonly char: string; readonly count: number };
}

const SUPPORTED =
  "none, ByteLevel, Metaspace, WordPiece, and sequences of Replace (of a string), ByteFallback, Fuse and Strip (at the start)";
const NO_STRIP = { char: "", count: 0 };
const BYTE_ENTRY = /^<0x([0-9A-Fa-f]{2})>$/;
const encoder = new TextEncoder();

/** @throws {ModelError} `model_unsupported` for a decoder that this program cannot follow exactly */
export function compileTokenDecoder(fields: ConfigFields): TokenDecoder {
  const config = fields.value("decoder");
  if (config === undefined) return spaceBefore(() => undefined);
  if (!isJsonObject(config))
    return fields.invalid("decoder", "an object or null");
  switch (config["type"]) {
    case "ByteLevel":
      return byteLevel;
    case "Metaspace":
      return metaspace(config);
    case "WordPiece":
      return wordPiece(config);
    default:
      return sequence(config) ?? fields.unsupported("decoder", SUPPORTED);
  }
}

const byteLevel: TokenDecoder = {
  bytes: (entry) => byteLevelBytes(entry) ?? encoder.encode(entry),
  addedAsIs: true,
  strip: NO_STRIP,
};

function metaspace(config: JsonObject): TokenDecoder {
  const {
    replacement,
    prepend_scheme: scheme,
    add_prefix_space: addsSpace,
  } = config;
  const mark = typeof replacement === "string" ? replacement : "\u2581";
  const bytes = (entry: string): Uint8Array =>
    encoder.encode(entry.replaceAll(mark, " "));
  const neverPrepends =
    scheme === undefined ? addsSpace === false : scheme === "never";
  if (neverPrepends) return { bytes, addedAsIs: false, strip: NO_STRIP };
  return {
    bytes,
    firstBytes: (entry) => encoder.encode(entry.replaceAll(mark, "")),
    addedAsIs: false,
    strip: NO_STRIP,
  };
}

function wordPiece(config: JsonObject): TokenDecoder {
  const prefix = typeof config["prefix"] === "string" ? config["prefix"] : "##";
  const clean = config["cleanup"] === false ? (text: string) => text : cleanUp;
  return spaceBefore(
    (entry) =>
      entry.startsWith(prefix) ? entry.slice(prefix.length) : undefined,
    clean,
  );
}

/** @param continuation what an entry says when it goes on with the word before, `undefined` when it does not */
function spaceBefore(
  continuation: (entry: string) => string | undefined,
  clean = (text: string): string => text,
): TokenDecoder {
  return {
    bytes: (entry) => encoder.encode(clean(continuation(entry) ?? ` ${entry}`)),
    firstBytes: (entry) => encoder.encode(clean(entry)),
    addedAsIs: false,
    strip: NO_STRIP,
  };
}

/** @source huggingface/tokenizers, decoders/wordpiece.rs, cleanup */
function cleanUp(text: string): string {
  return text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function sequence(config: JsonObject): TokenDecoder | null {
  const steps: readonly JsonValue[] =
    config["type"] === "Sequence" ? asArray(config["decoders"]) : [config];
  let text = (entry: string): string => entry;
  let hasBytes = false;
  let isFused = false;
  let strip = NO_STRIP;
  for (const step of steps) {
    if (!isJsonObject(step)) return null;
    const before = text;
    switch (step["type"]) {
      case "ByteLevel":
        // Steps around the byte alphabet would change bytes, not text.
        return steps.length === 1 ? byteLevel : null;
      case "Replace": {
        const { pattern, content } = step;
        const from = isJsonObject(pattern) ? pattern["String"] : undefined;
        // After a strip, what it left can be too much or too little for a replacement over the whole text.
        if (
          typeof from !== "string" ||
          from === "" ||
          typeof content !== "string"
        )
          return null;
        if (isFused || strip.count > 0) return null;
        text = (entry) => before(entry).replaceAll(from, content);
        break;
      }
      case "ByteFallback":
        if (isFused) return null;
        hasBytes = true;
        break;
      case "Fuse":
        isFused = true;
        break;
      case "Strip": {
        const { content, start, stop } = step;
        if (typeof content !== "string" || content.length !== 1 || !isFused)
          return null;
        if (strip.count > 0 || stop !== 0 || typeof start !== "number")
          return null;
        strip = { char: content, count: start };
        break;
      }
      default:
        return null;
    }
  }
  const bytes = (entry: string): Uint8Array => {
    const said = text(entry);
    const byte = hasBytes ? BYTE_ENTRY.exec(said)?.[1] : undefined;
    return byte === undefined
      ? encoder.encode(said)
      : Uint8Array.of(Number.parseInt(byte, 16));
  };
  return { bytes, addedAsIs: false, strip };
}

function asArray(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? (value as readonly JsonValue[]) : [];
}
