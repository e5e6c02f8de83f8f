/** One configuration value: what it may be, its default, and what it means. */

/** What is wrong with a value, as the end of a sentence that starts with the setting's name. */
export class WrongValue extends Error {}

export interface Setting<T> {
  readonly default: T;
  /** One line for `--help` and the documentation, with the unit. */
  readonly doc: string;
  /** How the value is shown in `--help`: `NUMBER`, `DIR`. */
  readonly placeholder: string;
  /** @throws {WrongValue} */
  read(value: unknown): T;
  /** From the text of a command-line flag. @throws {WrongValue} */
  parse(text: string): T;
}

export function integer<D extends number | null>(
  fallback: D,
  min: number,
  max: number,
  doc: string,
): Setting<number | D> {
  const read = (value: unknown): number => {
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    throw new WrongValue(`must be a whole number from ${min} to ${max}, got ${show(value)}`);
  };
  return { default: fallback, doc, placeholder: "NUMBER", read: orDefault(fallback, read), parse: (text) => read(asNumber(text)) };
}

export function number<D extends number | null>(fallback: D, min: number, max: number, doc: string): Setting<number | D> {
  const read = (value: unknown): number => {
    if (typeof value === "number" && value >= min && value <= max) return value;
    throw new WrongValue(`must be a number from ${min} to ${max}, got ${show(value)}`);
  };
  return { default: fallback, doc, placeholder: "NUMBER", read: orDefault(fallback, read), parse: (text) => read(asNumber(text)) };
}

export function boolean(fallback: boolean, doc: string): Setting<boolean> {
  const read = (value: unknown): boolean => {
    if (typeof value === "boolean") return value;
    throw new WrongValue(`must be true or false, got ${show(value)}`);
  };
  const parse = (text: string) => read(text === "true" ? true : text === "false" ? false : text);
  return { default: fallback, doc, placeholder: fallback ? "true|false" : "", read, parse };
}

export function text<D extends string | null>(fallback: D, placeholder: string, doc: string): Setting<string | D> {
  const read = (value: unknown): string => {
    if (typeof value === "string" && value !== "") return value;
    throw new WrongValue(`must be a non-empty string, got ${show(value)}`);
  };
  return { default: fallback, doc, placeholder, read: orDefault(fallback, read), parse: read };
}

export function choice<T extends string>(fallback: T, values: readonly T[], doc: string): Setting<T> {
  const read = (value: unknown): T => {
    const found = values.find((each) => each === value);
    if (found !== undefined) return found;
    throw new WrongValue(`must be ${values.slice(0, -1).join(", ")} or ${values.at(-1)}, got ${show(value)}`);
  };
  return { default: fallback, doc, placeholder: values.join("|"), read, parse: read };
}

/** One string counts as a list of one. */
export function texts(placeholder: string, doc: string): Setting<readonly string[]> {
  const read = (value: unknown): readonly string[] => {
    const list: readonly unknown[] = Array.isArray(value) ? value : [value];
    if (list.every((each) => typeof each === "string" && each !== "")) return list as readonly string[];
    throw new WrongValue(`must be a string or a list of non-empty strings, got ${show(value)}`);
  };
  return { default: [], doc, placeholder, read, parse: (given) => read([given]) };
}

/** Names to one or more names. */
export function nameMap(doc: string): Setting<Readonly<Record<string, readonly string[]>>> {
  const read = (value: unknown): Readonly<Record<string, readonly string[]>> => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new WrongValue(`must be a map from names to names, got ${show(value)}`);
    }
    const entries = Object.entries(value).map(([key, given]: [string, unknown]) => {
      const list: readonly unknown[] = Array.isArray(given) ? given : [given];
      if (!list.every((each) => typeof each === "string" && each !== "")) {
        throw new WrongValue(`must map ${key} to a name or a list of names, got ${show(given)}`);
      }
      return [key, list as readonly string[]] as const;
    });
    return Object.fromEntries(entries);
  };
  const parse = () => {
    throw new WrongValue("can only be set in the configuration file");
  };
  return { default: {}, doc, placeholder: "MAP", read, parse };
}

/** Where nothing is a value of its own, a written null means it. */
const orDefault =
  <T, D>(fallback: D, read: (value: unknown) => T) =>
  (value: unknown): T | D =>
    value === null && fallback === null ? fallback : read(value);

const asNumber = (given: string): unknown => (/^[+-]?\d+(\.\d+)?(e\d+)?$/i.test(given) ? Number(given) : given);

function show(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object" && value !== null) return "a map";
  const written = typeof value === "string" ? JSON.stringify(value) : String(value);
  return written.length <= 60 ? written : `${written.slice(0, 60)}...`;
}
