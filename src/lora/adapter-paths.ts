/** Where adapters may lie: paths that requests name, and directories that an operator lists. */
import { lstat, readdir, realpath, stat } from "node:fs/promises";
import { basename, isAbsolute, join, relative, resolve, sep } from "node:path";
import { ConfigError, RequestError } from "../core/errors.ts";

const ARCHIVE = ".nemo";

/** Letters, digits, `_`, `.`, `-` after a letter or digit; one `/` as in `owner/name`. */
const NAME = /^[a-zA-Z0-9][\w.-]{0,95}(\/[\w.-]{1,96})?$/;

export const isAdapterName = (name: string): boolean => NAME.test(name) && !name.split("/").some((part) => /^\.+$/.test(part));

/**
 * The real path behind one that a request named.
 *
 * @param roots directories that the operator allows; none refuses every path
 * @throws {RequestError} `forbidden_path`, the same whether the path is missing or outside, so that nobody can
 *   ask which files exist
 */
export async function resolveUnderRoots(path: string, roots: readonly string[]): Promise<string> {
  const refused = new RequestError(
    "forbidden_path",
    "lora_path must be an adapter's directory or .nemo file under a root that the server allows (--adapter-root)",
    { field: "lora_path" },
  );
  if (path === "" || path.includes("\0") || /^[a-zA-Z][a-zA-Z0-9+.-]*:/.test(path)) throw refused;
  for (const root of roots) {
    const realRoot = await realpath(root).catch(() => null);
    if (realRoot === null) continue;
    const real = await realpath(isAbsolute(path) ? path : resolve(realRoot, path)).catch(() => null);
    if (real === null || !isInside(real, realRoot)) continue;
    const found = await stat(real);
    if (found.isDirectory() || (found.isFile() && real.endsWith(ARCHIVE))) return real;
  }
  throw refused;
}

export function isInside(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && !isAbsolute(way));
}

export interface NamedAdapter {
  readonly name: string;
  readonly path: string;
}

/**
 * Adapters that one `--lora-dir` value stands for: `name=DIR`, a directory of one adapter or of many, or a `.nemo` file.
 *
 * A directory with one `.nemo` file is an adapter of its own name; of several, each is one.
 *
 * @returns sorted by name
 * @throws {ConfigError} `config_invalid` when there is none
 */
export async function discoverAdapters(value: string): Promise<NamedAdapter[]> {
  const named = /^([^=/\\]+)=(.+)$/.exec(value);
  const directory = named?.[2] ?? value;
  if (await isOneAdapter(directory)) {
    return [{ name: checkedName(named?.[1] ?? basename(resolve(directory), ARCHIVE), directory), path: resolve(directory) }];
  }
  if (!(await isDirectory(directory))) throw wrong(directory, "is not a directory, nor a .nemo file");
  if (named !== null) throw wrong(directory, "holds no adapter (adapter_config.json or one .nemo file)");
  const found: NamedAdapter[] = [];
  for (const entry of (await readdir(directory)).sort()) {
    const path = join(directory, entry);
    if (!entry.startsWith(".") && (await isOneAdapter(path))) {
      found.push({ name: checkedName(basename(entry, ARCHIVE), path), path: resolve(path) });
    }
  }
  if (found.length === 0) throw wrong(directory, "holds no adapter, and no directory in it does");
  return found;
}

/** Whether a path is a `.nemo` file, or a directory of one adapter. */
async function isOneAdapter(path: string): Promise<boolean> {
  if (!(await isDirectory(path))) return path.endsWith(ARCHIVE) && (await stat(path).catch(() => null))?.isFile() === true;
  const names = await readdir(path);
  return names.includes("adapter_config.json") || names.filter((name) => name.endsWith(ARCHIVE)).length === 1;
}

async function isDirectory(path: string): Promise<boolean> {
  const found = await lstat(path).catch(() => null);
  if (found === null) return false;
  return found.isSymbolicLink() ? (await stat(path).catch(() => null))?.isDirectory() === true : found.isDirectory();
}

/** @param directory or other source that it would name. @throws {ConfigError} `config_invalid` */
export function checkedName(name: string, directory: string): string {
  if (isAdapterName(name)) return name;
  throw wrong(directory, `would be named "${name.slice(0, 40)}", which is no adapter name; use name=DIR with letters, digits, _ . and -`);
}

const wrong = (directory: string, problem: string): ConfigError =>
  new ConfigError("config_invalid", `lora_dir ${directory} ${problem}`, { field: "lora_dir" });
