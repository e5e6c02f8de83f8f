/**
 * `bun run build:cuda`: compiles the CUDA addon to native/cuda/build/Release/lorikeet-cuda.node.
 *
 * Further arguments are definitions for CMake: `-DCMAKE_CUDA_ARCHITECTURES=90a-real` builds for one kind of device, in
 * about half the time.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { fail, findBun, installPackages, root, run, say } from "./bun.mjs";

const SOURCE = join(root, "native/cuda");
export const BUILD = join(SOURCE, "build");
export const ADDON = join(BUILD, "Release/lorikeet-cuda.node");
const CMAKE_JS = join(root, "node_modules/cmake-js/bin/cmake-js");

/** @returns what this machine lacks to compile the CUDA sources, as a sentence, or `undefined` */
export function whatIsMissing(has = hasProgram) {
  if (!has("nvcc")) return "nvcc is not on the search path; install the CUDA toolkit (12.8 or newer), or add its bin folder to PATH";
  if (!has("cmake")) return "cmake is not on the search path; install CMake 3.25 or newer";
  return undefined;
}

/**
 * @param definitions `-DNAME=VALUE`
 * @returns the exit code of the first command that failed, or 0
 */
export async function buildCuda(bun, definitions = []) {
  forgetOtherSource();
  const jobs = String(availableParallelism());
  for (const [command, ...args] of buildCommands({ bun, definitions, jobs, hasCmakeJs: existsSync(CMAKE_JS), isConfigured: existsSync(join(BUILD, "CMakeCache.txt")), hasNinja: hasProgram("ninja") })) {
    const code = await run(command, args);
    if (code !== 0) return code;
  }
  return 0;
}

/** cmake-js where it is installed, which brings the headers of Node-API; CMake alone elsewhere. */
export function buildCommands({ bun, definitions, jobs, hasCmakeJs, isConfigured, hasNinja }) {
  if (hasCmakeJs) {
    // `build` alone would leave a configured folder as it is, whatever the definitions say.
    const cmakeJs = (command) => [bun, "--bun", CMAKE_JS, command, "--directory", SOURCE, "--parallel", jobs, ...definitions.map((each) => each.replace(/^-D/, "--CD"))];
    return [cmakeJs("configure"), cmakeJs("build")];
  }
  // A folder that is configured keeps its generator.
  const generator = hasNinja && !isConfigured ? ["-G", "Ninja"] : [];
  return [
    ["cmake", "-S", SOURCE, "-B", BUILD, ...generator, ...definitions],
    ["cmake", "--build", BUILD, "--parallel", jobs],
  ];
}

/** A build folder that came along with a copied tree names paths that are not here, and CMake refuses it. */
function forgetOtherSource() {
  const cache = join(BUILD, "CMakeCache.txt");
  if (!existsSync(cache)) return;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, "utf8"))?.[1];
  if (home !== SOURCE) rmSync(BUILD, { recursive: true });
}

/** What the host-side tests are written with. */
export const hasDoctest = () => spawnSync("c++", ["-fsyntax-only", "-include", "doctest/doctest.h", "-x", "c++", "/dev/null"], { stdio: "ignore" }).status === 0;

export const hasProgram = (name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0;

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const missing = whatIsMissing();
  if (missing !== undefined) fail(`the CUDA addon cannot be built here: ${missing}`);
  const bun = findBun();
  installPackages(bun);
  const code = await buildCuda(bun, process.argv.slice(2));
  if (code !== 0) fail(`the CUDA addon was not built: see the messages above`);
  say(`built ${ADDON}`);
}
