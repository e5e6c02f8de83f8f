/**
 * Regular expressions of `tokenizer.json`, written for Oniguruma, as JavaScript ones.
 *
 * Only what means exactly the same in both is translated; a pattern with anything else gives `null`.
 */

/** General categories, equal in both engines up to their Unicode versions. */
const CATEGORIES =
  /^(?:[CLMNPSZ]|C[cf]|L[lmotu]|M[cen]|N[dlo]|P[cdefios]|S[ckmo]|Z[lps])$/;
const SCRIPTS =
  /^(?:Arabic|Cyrillic|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai)$/;
/** Categories that hold both cases of a letter or none, so that folding case changes nothing. */
const CASELESS_CATEGORIES = /^[LMNPSZ]$/;
/** Letters whose Unicode case folding reaches beyond ASCII, which Oniguruma follows. */
const WIDE_FOLDS = new Map([
  ["s", "\\u{17f}"],
  ["k", "\\u{212a}"],
]);
/** Neighbours that one ligature folds to: under `(?i:` Oniguruma lets that one character match. */
const LIGATURES = /ss|ff|fi|fl|st/i;

const CLASS_ESCAPES: Readonly<Record<string, string>> = {
  s: "\\p{White_Space}",
  S: "\\P{White_Space}",
  d: "\\p{Nd}",
  D: "\\P{Nd}",
};
const CHAR_ESCAPES: Readonly<Record<string, string>> = {
  r: "\r",
  n: "\n",
  t: "\t",
  f: "\f",
  v: "\v",
};
const GROUP_OPENINGS = ["(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!"];

class Untranslatable extends Error {}

/** @returns a global regular expression with the same matches, or `null` */
export function translateSplitRegex(source: string): RegExp | null {
  try {
    return new RegExp(new Translator(source).translate(), "gu");
  } catch (thrown) {
    if (thrown instanceof Untranslatable || thrown instanceof SyntaxError)
      return null;
    throw thrown;
  }
}

class Translator {
  readonly #chars: readonly string[];
  #at = 0;
  #numAtomic = 0;

  constructor(source: string) {
    this.#chars = Array.from(source);
  }

  translate(): string {
    const out = this.#alternatives(false);
    if (this.#at < this.#chars.length) throw new Untranslatable();
    return out;
  }

  #alternatives(fold: boolean): string {
    let out = "";
    for (;;) {
      const char = this.#chars[this.#at];
      if (char === undefined || char === ")") return out;
      if (char === "|") {
        this.#at++;
        out += "|";
      } else {
        out += this.#quantified(this.#atom(char, fold));
      }
    }
  }

  #atom(char: string, fold: boolean): string {
    if (char === "(") return this.#group(fold);
    if (char === "[") return this.#class(fold);
    if (char === "\\") {
      const escape = this.#escape(fold);
      return escape.literal === undefined
        ? escape.set
        : literal(escape.literal, fold);
    }
    if (".^$?*+{}]".includes(char)) throw new Untranslatable();
    this.#at++;
    return literal(char, fold);
  }

  #group(fold: boolean): string {
    const rest = this.#chars.slice(this.#at, this.#at + 4).join("");
    const opening = GROUP_OPENINGS.find((text) => rest.startsWith(text));
    if (opening === undefined && rest.startsWith("(?"))
      throw new Untranslatable();
    this.#at += opening?.length ?? 1;
    const from = this.#at;
    const folds = fold || opening === "(?i:";
    const body = this.#alternatives(folds);
    if (this.#chars[this.#at] !== ")") throw new Untranslatable();
    if (folds && LIGATURES.test(this.#chars.slice(from, this.#at).join(""))) {
      throw new Untranslatable();
    }
    this.#at++;
    return `${opening === undefined || opening === "(?i:" ? "(?:" : opening}${body})`;
  }

  #class(fold: boolean): string {
    let out = "[";
    this.#at++;
    if (this.#chars[this.#at] === "^") {
      this.#at++;
      out += "^";
    }
    const from = this.#at;
    for (;;) {
      const char = this.#chars[this.#at];
      if (char === undefined || char === "[") throw new Untranslatable();
      if (char === "&" && this.#chars[this.#at + 1] === "&")
        throw new Untranslatable();
      if (char === "]") {
        if (this.#at === from) throw new Untranslatable();
        this.#at++;
        return `${out}]`;
      }
      out += this.#classMember(char, fold);
    }
  }

  #classMember(char: string, fold: boolean): string {
    const low = this.#classChar(char, fold);
    const isRange =
      this.#chars[this.#at] === "-" &&
      !["]", undefined].includes(this.#chars[this.#at + 1]);
    if (!isRange)
      return low.literal === undefined
        ? low.set
        : classLiteral(low.literal, fold);
    this.#at++;
    const high = this.#classChar(this.#chars[this.#at]!, fold);
    if (fold || low.literal === undefined || high.literal === undefined)
      throw new Untranslatable();
    return `${codePoint(low.literal)}-${codePoint(high.literal)}`;
  }

  #classChar(char: string, fold: boolean): SetOrLiteral {
    if (char === "\\") return this.#escape(fold);
    if (char === "[") throw new Untranslatable();
    this.#at++;
    return { literal: char };
  }

  #escape(fold: boolean): SetOrLiteral {
    const char = this.#chars[this.#at + 1];
    if (char === undefined) throw new Untranslatable();
    if (char === "p" || char === "P")
      return { set: this.#property(char, fold) };
    this.#at += 2;
    const set = CLASS_ESCAPES[char];
    if (set !== undefined) return { set };
    const control = CHAR_ESCAPES[char];
    if (control !== undefined) return { literal: control };
    if (/[\p{L}\p{N}]/u.test(char)) throw new Untranslatable();
    return { literal: char };
  }

  #property(kind: string, fold: boolean): string {
    const close = this.#chars.indexOf("}", this.#at);
    if (this.#chars[this.#at + 2] !== "{" || close === -1)
      throw new Untranslatable();
    const name = this.#chars.slice(this.#at + 3, close).join("");
    const isCategory = CATEGORIES.test(name);
    if (!isCategory && !SCRIPTS.test(name)) throw new Untranslatable();
    if (fold && !CASELESS_CATEGORIES.test(name)) throw new Untranslatable();
    this.#at = close + 1;
    return `\\${kind}{${isCategory ? name : `Script=${name}`}}`;
  }

  #quantified(atom: string): string {
    const rest = this.#chars.slice(this.#at, this.#at + 24).join("");
    const quantifier = /^(?:[?*+]|\{\d{1,4}(?:,\d{0,4})?\})/.exec(rest)?.[0];
    if (quantifier === undefined) return atom;
    if (
      atom.startsWith("(?=") ||
      atom.startsWith("(?!") ||
      atom.startsWith("(?<")
    ) {
      throw new Untranslatable();
    }
    this.#at += quantifier.length;
    const suffix = this.#chars[this.#at];
    if (suffix === undefined || !"?*+{".includes(suffix))
      return atom + quantifier;
    // Behind a counted repeat the next sign is a repeat of its own, and a second sign always is.
    const next = this.#chars[this.#at + 1];
    if (quantifier.startsWith("{") || !"?+".includes(suffix))
      throw new Untranslatable();
    if (next !== undefined && "?*+{".includes(next)) throw new Untranslatable();
    this.#at++;
    if (suffix === "?") return `${atom}${quantifier}?`;
    // JavaScript has no possessive repeats; what a lookahead captured is not matched again.
    const name = `atomic${this.#numAtomic++}`;
    return `(?=(?<${name}>${atom}${quantifier}))\\k<${name}>`;
  }
}

type SetOrLiteral =
  | { readonly set: string; readonly literal?: undefined }
  | { readonly literal: string; readonly set?: undefined };

function codePoint(char: string): string {
  return `\\u{${char.codePointAt(0)!.toString(16)}}`;
}

function literal(char: string, fold: boolean): string {
  return fold ? `[${classLiteral(char, true)}]` : codePoint(char);
}

function classLiteral(char: string, fold: boolean): string {
  if (!fold) return codePoint(char);
  if (char > "\x7f") throw new Untranslatable();
  const lower = char.toLowerCase();
  const upper = char.toUpperCase();
  if (lower === upper) return codePoint(char);
  return codePoint(lower) + codePoint(upper) + (WIDE_FOLDS.get(lower) ?? "");
}
