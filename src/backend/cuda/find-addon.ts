/** Where the CUDA addon lies. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { NativeError } from "../../core/errors.ts";
import { ownFile } from "../../core/own-files.ts";

/** Names a file to load instead of looking for one. */
const OVERRIDE = "LORIKEET_CUDA_ADDON";
const FILE = "lorikeet-cuda.node";
/** Has the addon for this platform and no install script; `bun run pack:cuda` makes it. */
export const ADDON_PACKAGE = `lorikeet-cuda-${process.platform}-${process.arch}`;

/**
 * The file that the environment names, else what was built in this tree, else the package for this platform; for an executable
 * the file beside it.
 *
 * @throws {NativeError} `backend_unavailable`, with what to do
 */
export function findAddon(env: Readonly<Record<string, string | undefined>>): string {
  const override = env[OVERRIDE];
  if (override !== undefined) {
    // A path that is relative is so to the caller's folder, not to this file's.
    const path = resolve(override);
    if (existsSync(path)) return path;
    throw unavailable(`${OVERRIDE} names a file that does not exist`);
  }
  if (Bun.isStandaloneExecutable) {
    const beside = join(dirname(process.execPath), FILE);
    if (existsSync(beside)) return beside;
    throw unavailable(`${FILE} is not beside this program; put it there, or name it with ${OVERRIDE}`);
  }
  const built = ownFile(join("native/cuda/build/Release", FILE));
  if (existsSync(built)) return built;
  const installed = installedAddon();
  if (installed !== null) return installed;
  const isCheckout = existsSync(ownFile("native/cuda/CMakeLists.txt"));
  throw unavailable(isCheckout ? "the CUDA addon is not built; run `bun run build:cuda` on a machine with nvcc" : `the CUDA addon is not installed; add the package ${ADDON_PACKAGE}`);
}

function installedAddon(): string | null {
  try {
    return createRequire(import.meta.url).resolve(ADDON_PACKAGE);
  } catch {
    return null;
  }
}

const unavailable = (message: string): NativeError => new NativeError("backend_unavailable", message, { field: "backend" });
