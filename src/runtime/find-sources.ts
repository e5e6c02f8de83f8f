/** The model and the adapters that settings name, brought to this machine. */
import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { type AllowedSources, allowedSources } from "../sources/allowed-sources.ts";
import { sourceSettings } from "../sources/settings.ts";
import { type FetchedSource, type SourceHooks, Sources } from "../sources/sources.ts";

export interface SourceOptions {
  /** Origins that may be downloaded from besides the hub. */
  readonly sourceHost: readonly string[];
  readonly downloadTimeoutS: number;
  /** Sources under which the admin key may load adapters by request. */
  readonly adapterSource: readonly string[];
  /** Hears what is downloaded. */
  readonly onSource?: SourceHooks;
}

const SILENT: SourceHooks = { onProgress: () => undefined, onNote: () => undefined };

export const sourcesOf = ({ sourceHost, downloadTimeoutS, onSource = SILENT }: Omit<SourceOptions, "adapterSource">): Sources =>
  new Sources(sourceSettings(process.env, sourceHost, downloadTimeoutS), onSource);

/** @throws {ConfigError} where there is no directory in the end */
export async function findModel(sources: Sources, model: string | null): Promise<FetchedSource> {
  const wrong = (message: string): ConfigError => new ConfigError("config_invalid", message, { field: "model" });
  if (model === null) throw wrong("model is missing; give the directory of the base model");
  const found = await sources.fetch(model, "model");
  if ((await stat(found.path).catch(() => null))?.isDirectory() === true) {
    return found.origin === null ? { ...found, name: basename(resolve(found.path)) } : found;
  }
  throw wrong(`the model ${JSON.stringify(model)} is not a directory; give one that holds a model's files`);
}

/** Adapters that the admin key may load by request, and where those lie that it did load. */
export class SourceLoads {
  readonly #sources: Sources;
  readonly #isAllowed: AllowedSources;
  readonly #paths = new Set<string>();

  /** @throws {ConfigError} `config_invalid` for a prefix that cannot be read */
  constructor(sources: Sources, prefixes: readonly string[]) {
    this.#sources = sources;
    this.#isAllowed = allowedSources(prefixes);
  }

  readonly fetch = async (text: string): Promise<string | null> => {
    const found = await this.#sources.fetchAllowed(text, this.#isAllowed);
    if (found !== null) this.#paths.add(found.path);
    return found?.path ?? null;
  };

  /** Whether a path is one of a cache, whose files are links. */
  has(path: string): boolean {
    return this.#paths.has(path);
  }
}

/** A `lora_dir` value on this machine. */
export interface AdapterSource {
  /** As `discoverAdapters` takes it. */
  readonly value: string;
  readonly origin: string | null;
}

/** Downloads what is elsewhere, all at once. */
export function findAdapterSources(sources: Sources, values: readonly string[]): Promise<AdapterSource[]> {
  return Promise.all(
    values.map(async (value): Promise<AdapterSource> => {
      const [, given, source = value] = /^([^=/\\:]+)=(.+)$/.exec(value) ?? [];
      const { path, origin, name } = await sources.fetch(source, "adapter");
      return origin === null ? { value, origin } : { value: `${given ?? name}=${path}`, origin };
    }),
  );
}
