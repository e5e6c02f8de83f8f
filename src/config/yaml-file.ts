/** A configuration file to settings, with the line and column of everything that is wrong. */
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml";
import { ConfigError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";
import { type Given, isSection, readSetting, yamlName } from "./resolve.ts";
import { camelCase, SECTIONS, SETTINGS, snakeCase } from "./settings.ts";
import { isHarmless, notServed, unservedKey } from "./trtllm-keys.ts";

const MAX_CHARS = 1024 * 1024;

/**
 * @param fileName as it is to stand in messages
 * @throws {ConfigError} `config_invalid`, starting with `file:line:column`
 */
export function readYaml(source: string, fileName: string): Given[] {
  if (source.length > MAX_CHARS) throw new ConfigError("config_invalid", `${fileName} is longer than ${MAX_CHARS} characters`);
  return new YamlReader(source, fileName).read();
}

class YamlReader {
  readonly #fileName: string;
  readonly #lines = new LineCounter();
  readonly #document: Document;

  constructor(source: string, fileName: string) {
    this.#fileName = fileName;
    this.#document = parseDocument(source, { lineCounter: this.#lines, uniqueKeys: true, prettyErrors: false });
  }

  read(): Given[] {
    const [error] = this.#document.errors;
    if (error !== undefined) throw this.#fail(error.pos[0], error.message.split("\n")[0]!);
    const root = this.#document.contents;
    if (root === null || isNull(root)) return [];
    return this.#entries(root as Node, "the file").flatMap(({ key, keyAt, value, valueAt }) => {
      const name = camelCase(key);
      if (key !== name && isSection(name)) return this.#section(name, value, valueAt);
      return this.#setting(name, key, keyAt, value, valueAt);
    });
  }

  #section(section: keyof typeof SECTIONS, value: Node | null, at: number): Given[] {
    if (value === null || isNull(value)) return [];
    if (!isMap(this.#resolved(value))) throw this.#fail(at, `${yamlName(section)} must be a map of settings`);
    return this.#entries(value, yamlName(section)).flatMap((entry) =>
      this.#setting(`${section}.${camelCase(entry.key)}`, `${yamlName(section)}.${entry.key}`, entry.keyAt, entry.value, entry.valueAt),
    );
  }

  #setting(place: string, key: string, keyAt: number, value: Node | null, valueAt: number): Given[] {
    const unserved = unservedKey(key);
    if (unserved !== undefined) {
      if (isHarmless(unserved, value === null || isScalar(value) ? this.#plain(value) : value)) return [];
      throw this.#fail(keyAt, `${key} ${notServed(unserved, "a key")}`, key);
    }
    // A camelCase key would be found too, but files are written in snake_case or kebab-case.
    if (!SETTINGS.has(place) || yamlName(place) !== key) throw this.#unknown(key, keyAt);
    const source = this.#place(keyAt);
    const plain = this.#plain(value);
    return [{ setting: place, value: readSetting(place, plain, `${this.#place(valueAt)}: ${key}`, key), source: `${source} (${key})` }];
  }

  #unknown(key: string, at: number): ConfigError {
    const near = neighbours(key);
    const hint = near.length === 1 ? ` (did you mean ${near[0]}?)` : didYouMean(key, near);
    return this.#fail(at, `${key} is not a setting${hint}`, key);
  }

  #entries(node: Node, what: string) {
    const map = this.#resolved(node);
    if (!isMap(map)) throw this.#fail(node.range?.[0] ?? 0, `${what} must be a map of settings`);
    return map.items.map(({ key, value }) => {
      const keyAt = (key as Node).range?.[0] ?? 0;
      if (!isScalar(key) || typeof key.value !== "string") throw this.#fail(keyAt, "a key must be a name");
      return { key: key.value.replaceAll("-", "_"), keyAt, value: value as Node | null, valueAt: (value as Node | null)?.range?.[0] ?? keyAt };
    });
  }

  #resolved(node: Node): Node {
    if (!isAlias(node)) return node;
    return node.resolve(this.#document) ?? raise(this.#fail(node.range?.[0] ?? 0, `Unresolved alias ${node.source}`));
  }

  /** The value of a node two levels deep at most: no setting is deeper, and no alias can make it so. */
  #plain(node: Node | null, depth = 0): unknown {
    if (node === null) return null;
    const resolved = this.#resolved(node);
    if (isScalar(resolved)) return resolved.value;
    if (depth > 1) throw this.#fail(resolved.range?.[0] ?? 0, "a value must not nest this deep");
    if (isSeq(resolved)) return resolved.items.map((item) => this.#plain(item as Node, depth + 1));
    if (!isMap(resolved)) return null;
    return Object.fromEntries(resolved.items.map(({ key, value }) => [String(key), this.#plain(value as Node | null, depth + 1)]));
  }

  #place(offset: number): string {
    const { line, col } = this.#lines.linePos(offset);
    return `${this.#fileName}:${line}:${col}`;
  }

  #fail(offset: number, problem: string, field?: string): ConfigError {
    const options = field === undefined ? {} : { field };
    return new ConfigError("config_invalid", `${this.#place(offset)}: ${problem}`, options);
  }
}

const isNull = (node: unknown): boolean => isScalar(node) && node.value === null;

const raise = (error: Error): never => {
  throw error;
};

/** Names that could have been meant: the same name in another section before others of this one. */
function neighbours(key: string): string[] {
  const names = [...SETTINGS.keys()].map(yamlName);
  const leaf = key.split(".").at(-1)!;
  const moved = names.filter((name) => name.split(".").at(-1) === leaf);
  if (moved.length > 0) return moved;
  const section = key.includes(".") ? key.split(".")[0]! : null;
  const same = names.filter((name) => (section === null ? !name.includes(".") : name.startsWith(`${section}.`)));
  return [...same, ...(section === null ? Object.keys(SECTIONS).map(snakeCase) : []), ...names];
}
