/**
 * Writes what the original tokenizers make of strings that are easy to get wrong.
 *
 *     npm install tokenizers@0.23.2      (in a directory of its own: the original, in Rust)
 *     bun scripts/reference/make-tokenizers.ts DIRECTORY/node_modules/tokenizers/index.js
 *
 * Writes test/fixtures/tokenizers/byte-level.json and sentencepiece.json: [{ name, cases }], where
 * names are those of test/helpers/tokenizers.ts and a case is
 * [text, ids, text of ids, text of ids without special tokens].
 */
import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import {
  BYTE_LEVEL_VARIANTS,
  SENTENCEPIECE_VARIANTS,
  type Variant,
  variantJson,
} from "../../test/helpers/tokenizers.ts";

interface Original {
  encode(text: string): Promise<{ getIds(): number[] }>;
  decode(ids: number[], skipSpecialTokens: boolean): Promise<string>;
}

const PARTS = [
  "the cat¦Hello¦ ¦  ¦   ¦\n¦\r\n¦\n\n¦\t¦\u0085¦\u00a0¦\u3000¦\u2028¦\ufeff¦\u200d¦é¦e\u0301¦ß¦ſ¦\u212a",
  "'s¦'S¦'ſ¦'LL¦x're¦1¦22¦333¦٣¦Ⅷ¦²¦一¦二三¦ひら¦カナ¦한국¦กข¦ש¦हि¦😀¦👨‍👩‍👧¦\u0300¦_¦-¦<¦>¦!!¦...¦(¦𝒳¦Dž¦▁¦X",
  "<s>¦</s>¦<l>¦<r>¦foo¦foo1¦<l><r>¦<|eot_id|>¦<|user|>¦[SEP]¦<0x41>",
].flatMap((parts) => parts.split("¦"));

let state = 20261124;
function random(below: number): number {
  state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
  return Math.floor((state / 0x80000000) * below);
}

function randomText(): string {
  return Array.from(
    { length: 1 + random(10) },
    () => PARTS[random(PARTS.length)],
  ).join("");
}

async function write(
  file: string,
  variants: readonly Variant[],
): Promise<void> {
  const { Tokenizer } = (await import(resolve(process.argv[2]!))) as {
    Tokenizer: { fromString(json: string): Original };
  };
  const all = [];
  for (const variant of variants) {
    const original = Tokenizer.fromString(JSON.stringify(variantJson(variant)));
    const cases = [];
    while (cases.length < 40) {
      const text = randomText();
      const ids = (await original.encode(text)).getIds();
      cases.push([
        text,
        ids,
        await original.decode(ids, false),
        await original.decode(ids, true),
      ]);
    }
    all.push({ name: variant.name, cases });
  }
  const path = new URL(
    `../../test/fixtures/tokenizers/${file}`,
    import.meta.url,
  );
  writeFileSync(
    path,
    `${all
      .map((entry) => JSON.stringify(entry))
      .join(",\n")
      .replace(/^/, "[\n")}\n]\n`,
  );
  console.log(file, readFileSync(path).length, "bytes");
}

await write("byte-level.json", BYTE_LEVEL_VARIANTS);
await write("sentencepiece.json", SENTENCEPIECE_VARIANTS);
