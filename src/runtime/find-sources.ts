/** The model and the adapters that settings name, brought to this machine. */
import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { checkedName, discoverAdapters, type NamedAdapter } from "../lora/adapter-paths.ts";
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

/** An adapter that settings name. */
export interface FoundAdapter extends NamedAdapter {
  /** Whether it is not on this machine: `path` is where it is to be had from then. */
  readonly isElsewhere: boolean;
  /** Source and version, for one that was downloaded. */
  readonly origin: string | null;
}

/**
 * The adapters that `lora_dir` stands for.
 *
 * @param fetchesAll downloads what is elsewhere, all at once; otherwise only what costs nothing is looked at of it: its spelling, its
 *   host, its name
 * @throws {ConfigError} `config_invalid`, also for two adapters of one name, `source_refused`; {CapacityError} `source_unavailable`
 */
export async function findAdapters(sources: Sources, values: readonly string[], fetchesAll: boolean): Promise<readonly FoundAdapter[]> {
  const found = new Map<string, FoundAdapter>();
  for (const adapters of await Promise.all(values.map((value) => adaptersOf(sources, value, fetchesAll)))) {
    for (const adapter of adapters) {
      if ((found.get(adapter.name) ?? adapter).path !== adapter.path) throw twice(adapter.name);
      found.set(adapter.name, adapter);
    }
  }
  return [...found.values()];
}

async function adaptersOf(sources: Sources, value: string, fetches: boolean): Promise<readonly FoundAdapter[]> {
  const [, given, source = value] = /^([^=/\\:]+)=(.+)$/.exec(value) ?? [];
  const ownName = sources.nameOfRemote(source);
  if (ownName === null) return (await discoverAdapters(value)).map((each) => ({ ...each, isElsewhere: false, origin: null }));
  const name = checkedName(given ?? ownName, source);
  if (!fetches) return [{ name, path: source, isElsewhere: true, origin: null }];
  const { path, origin } = await sources.fetch(source, "adapter");
  return [{ name, path, origin, isElsewhere: false }];
}

const twice = (name: string): ConfigError =>
  new ConfigError("config_invalid", `two adapters are named ${name}; give one of them another name with name=DIR`, { field: "lora_dir" });
