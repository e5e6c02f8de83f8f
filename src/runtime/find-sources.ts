/** The model and the adapters that settings name, brought to this machine. */
import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { sourceSettings } from "../sources/settings.ts";
import { type FetchedSource, type SourceHooks, Sources } from "../sources/sources.ts";

export interface SourceOptions {
  /** Origins that may be downloaded from besides the hub. */
  readonly sourceHost: readonly string[];
  readonly downloadTimeoutS: number;
  /** Hears what is downloaded. */
  readonly onSource?: SourceHooks;
}

const SILENT: SourceHooks = { onProgress: () => undefined, onNote: () => undefined };

export const sourcesOf = ({ sourceHost, downloadTimeoutS, onSource = SILENT }: SourceOptions): Sources =>
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
