/** Values from several sources to one `Config`. */
import { ConfigError } from "../core/errors.ts";
import { didYouMean } from "../core/nearest.ts";
import { type Setting, WrongValue } from "./setting.ts";
import { type Config, flagOf, isServerOnly, SECTIONS, SETTINGS, snakeCase, type Section } from "./settings.ts";
import { isHarmless, notServed, unservedKey } from "./trtllm-keys.ts";

/** A value that somebody wrote, checked, with the place where it was written. */
export interface Given {
  /** `port`, `loraConfig.maxLoraRank`. */
  readonly setting: string;
  readonly value: unknown;
  /** `--port`, `serve.yaml:3:1`, `LORIKEET_API_KEY`. */
  readonly source: string;
}

export interface Resolved {
  readonly config: Config;
  /** A sentence for each value that lost against another source. */
  readonly warnings: readonly string[];
}

/** @param sources from weakest to strongest */
export function resolveConfig(...sources: readonly (readonly Given[])[]): Resolved {
  const winners = new Map<string, Given>();
  const warnings: string[] = [];
  for (const given of sources.flat()) {
    const earlier = winners.get(given.setting);
    if (earlier !== undefined && !Bun.deepEquals(earlier.value, given.value)) {
      warnings.push(`${given.source} overrides ${earlier.source}`);
    }
    winners.set(given.setting, given);
  }
  const value = (place: string): unknown => {
    const given = winners.get(place);
    return given === undefined ? SETTINGS.get(place)!.default : given.value;
  };
  const record: Record<string, unknown> = {};
  for (const place of SETTINGS.keys()) {
    const [section, name] = place.split(".") as [string, string | undefined];
    if (name === undefined) record[section] = value(place);
    else record[section] = { ...(record[section] as object | undefined), [name]: value(place) };
  }
  // Every place of `Config` is in SETTINGS, and every value came from its setting's own reader.
  return { config: record as unknown as Config, warnings };
}

/**
 * Settings of a constructor call, in camelCase.
 *
 * @param user of them; a library has no use for what only a server has
 * @throws {ConfigError} `config_invalid` with the option's name
 */
export function givenOptions(options: object, user: "library" | "server" = "library"): Given[] {
  return Object.entries(options).flatMap(([name, value]: [string, unknown]): Given[] => {
    if (value === undefined) return [];
    if (isSection(name)) {
      if (typeof value !== "object" || value === null) throw wrong(name, "must be an object of settings");
      return Object.entries(value).flatMap(([inner, each]: [string, unknown]) => givenOption(`${name}.${inner}`, each));
    }
    if (user === "library" && isServerOnly(name)) throw wrong(name, "is a setting of the server, which a program does not start; leave it out");
    return givenOption(name, value);
  });
}

function givenOption(name: string, value: unknown): Given[] {
  const unserved = unservedKey(yamlName(name));
  if (unserved !== undefined) {
    if (isHarmless(unserved, value)) return [];
    throw wrong(name, notServed(unserved, "a key"));
  }
  if (!SETTINGS.has(name)) throw wrong(name, `is not a setting${nearestTo(name)}`);
  return [{ setting: name, value: readSetting(name, value, name), source: name }];
}

const nearestTo = (name: string): string => didYouMean(name, [...SETTINGS.keys(), ...Object.keys(SECTIONS)]);

/** From the environment: keys stay out of process lists that way. */
export function givenEnvironment(env: Readonly<Record<string, string | undefined>>): Given[] {
  return [givenKeys(env, "LORIKEET_API_KEY", "apiKey"), givenKeys(env, "LORIKEET_ADMIN_KEY", "adminKey")].flat();
}

function givenKeys(env: Readonly<Record<string, string | undefined>>, source: string, setting: string): Given[] {
  const list = (env[source] ?? "").split(",").map((key) => key.trim()).filter((key) => key !== "");
  return list.length === 0 ? [] : [{ setting, value: list, source }];
}

/** From a flag's texts, of which only lists take several. @throws {ConfigError} `config_invalid` */
export function givenFlag(place: string, texts: readonly string[]): Given {
  const source = flagOf(place.split(".").at(-1)!);
  return { setting: place, value: parseFlag(source, SETTINGS.get(place)!, texts), source };
}

/** @throws {ConfigError} `config_invalid` that names the flag */
export function parseFlag<T>(flag: string, setting: Setting<T>, texts: readonly string[]): T {
  try {
    return Array.isArray(setting.default) ? setting.read(texts) : setting.parse(texts.at(-1)!);
  } catch (thrown) {
    if (thrown instanceof WrongValue) throw wrong(flag, thrown.message);
    throw thrown;
  }
}

/** @param shownAs the name in messages, with its place in a file */
export function readSetting(place: string, value: unknown, shownAs: string, field = place): unknown {
  try {
    return SETTINGS.get(place)!.read(value);
  } catch (thrown) {
    if (thrown instanceof WrongValue) throw new ConfigError("config_invalid", `${shownAs} ${thrown.message}`, { field });
    throw thrown;
  }
}

export const isSection = (name: string): name is Section => Object.hasOwn(SECTIONS, name);

/** `lora_config.max_lora_rank` */
export const yamlName = (place: string): string => place.split(".").map(snakeCase).join(".");

const wrong = (name: string, problem: string): ConfigError =>
  new ConfigError("config_invalid", `${name} ${problem}`, { field: name });
