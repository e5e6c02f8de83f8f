/** YAML of files that nobody vouches for: plain scalars, lists and maps, no anchors, no tags, little nesting. */
import { isAlias, isCollection, isScalar, parseDocument, visit } from "yaml";
import { FormatError } from "./format-error.ts";
import type { JsonValue } from "./json.ts";

export interface YamlLimits {
  readonly maxBytes: number;
  /** Deepest nesting of maps and lists. */
  readonly maxDepth: number;
}

/** Widest start of a line, in spaces and dashes: block nesting shows there, before a parser that recurses sees it. */
const MAX_INDENT = 128;

/** @throws {FormatError} for anything else */
export function parseYaml(bytes: Uint8Array, { maxBytes, maxDepth }: YamlLimits): JsonValue {
  if (bytes.length > maxBytes) throw new FormatError(`the YAML text has ${bytes.length} bytes, more than the ${maxBytes} allowed`);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new FormatError("the YAML text is not valid UTF-8", { cause });
  }
  if (isTooDeep(text, maxDepth)) throw new FormatError(`the YAML text nests deeper than the ${maxDepth} levels allowed`);
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: false, logLevel: "silent", schema: "core" });
  // Tags that mean nothing here are warnings to the parser.
  const [error] = [...document.errors, ...document.warnings];
  if (error !== undefined) throw new FormatError(`the YAML text cannot be read at character ${error.pos[0]}: ${error.message.split("\n")[0]}`);
  if (document.contents === null) throw new FormatError("the YAML text is empty");
  visit(document, (_, node, path) => {
    const isAnchored = (isCollection(node) || isScalar(node)) && node.anchor !== undefined;
    if (isAlias(node) || isAnchored) throw new FormatError("the YAML text uses anchors or aliases, which are refused");
    if (path.length > 2 * maxDepth + 2) throw new FormatError(`the YAML text nests deeper than the ${maxDepth} levels allowed`);
  });
  return JSON.parse(JSON.stringify(document.toJS({ maxAliasCount: 0 }) ?? null)) as JsonValue;
}

function isTooDeep(text: string, maxDepth: number): boolean {
  let open = 0;
  let indent = 0;
  let atStart = true;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x0a || code === 0x0d) {
      indent = 0;
      atStart = true;
      continue;
    }
    if (code === 0x5b || code === 0x7b) open++;
    else if (code === 0x5d || code === 0x7d) open = Math.max(0, open - 1);
    if (atStart && (code === 0x20 || code === 0x2d || code === 0x3f || code === 0x3a || code === 0x09)) indent++;
    else atStart = false;
    if (open > maxDepth || indent > MAX_INDENT) return true;
  }
  return false;
}
