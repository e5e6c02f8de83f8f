/**
 * `bun run pack:cuda [FOLDER]`: packs the built CUDA addon as the package for this platform, which `lorikeet` finds beside itself.
 *
 * A package of its own, because npm 12 and Bun run no install scripts: what is in it is all there is to it. FOLDER is dist by default.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import packageJson from "../package.json" with { type: "json" };
import { ADDON_PACKAGE } from "../src/backend/cuda/find-addon.ts";
import { ADDON, BUILD } from "./build-cuda.mjs";

const FILE = "lorikeet-cuda.node";

/** @returns the path of the packed file @throws {Error} without a built addon */
export function packCuda(destination: string): string {
  if (!existsSync(ADDON)) throw new Error("the CUDA addon is not built; run `bun run build:cuda` first");
  const folder = join(BUILD, "package");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  mkdirSync(destination, { recursive: true });
  copyFileSync(ADDON, join(folder, FILE));
  copyFileSync(join(import.meta.dir, "../LICENSE"), join(folder, "LICENSE"));
  const content = {
    name: ADDON_PACKAGE,
    version: packageJson.version,
    description: `The CUDA addon of lorikeet for ${process.platform} ${process.arch}.`,
    license: packageJson.license,
    os: [process.platform],
    cpu: [process.arch],
    // Built against glibc; npm and Bun leave it out elsewhere.
    ...(process.platform === "linux" ? { libc: ["glibc"] } : {}),
    main: FILE,
    files: [FILE],
  };
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(content, null, 2)}\n`);
  const { exitCode, stderr } = Bun.spawnSync([process.execPath, "pm", "pack", "--quiet", "--destination", destination], { cwd: folder });
  if (exitCode !== 0) throw new Error(`the addon could not be packed: ${stderr.toString()}`);
  return join(destination, `${ADDON_PACKAGE}-${packageJson.version}.tgz`);
}

if (import.meta.main) console.log(packCuda(resolve(process.argv[2] ?? join(import.meta.dir, "../dist"))));
