/**
 * `npm test`: types, lint, the native sources (WASM and CUDA), then every test. The last line is `N passed, N failed`.
 *
 * Further arguments go to `bun test`.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { findBun, installPackages, root, run, say } from "./bun.mjs";
import { BUILD, buildCuda, hasDoctest, hasProgram, whatIsMissing } from "./build-cuda.mjs";

/** Its output is compared byte for byte; another Emscripten writes other bytes for the same source. */
const EMSCRIPTEN = "3.1.6";

/** @returns the counts that `bun test` prints at its end; an error outside of a test counts as failed */
export function countTests(report, exitCode) {
  const last = (word) => {
    const lines = [...report.matchAll(new RegExp(`^ *(\\d+) ${word}s?$`, "gm"))];
    return Number(lines.at(-1)?.[1] ?? 0);
  };
  const failed = last("fail") + last("error");
  return { passed: last("pass"), failed: exitCode !== 0 && failed === 0 ? 1 : failed };
}

async function main() {
  const bun = findBun();
  installPackages(bun);
  const stages = [
    { name: "types", check: () => run(bun, ["check"]) },
    { name: "types of the page", check: () => run(bun, ["check", "--project", "src/page"]) },
    { name: "lint", check: () => run(bun, ["--bun", "node_modules/.bin/oxlint", "--type-aware", "--deny-warnings"]) },
    { name: "native sources", check: checkWasm },
    { name: "cuda sources", check: () => checkCuda(bun) },
  ];
  let failed = 0;
  for (const { name, check } of stages) {
    say(`== ${name}`);
    const isGood = (await check()) === 0;
    if (!isGood) failed++;
    say(`== ${name}: ${isGood ? "good" : "FAILED"}`);
  }
  installChromium();
  say("== tests");
  const tests = await runTests(bun, process.argv.slice(2));
  failed += tests.failed;
  process.exitCode = failed === 0 ? 0 : 1;
  process.stdout.write(`${tests.passed} passed, ${failed} failed\n`);
}

function runTests(bun, args) {
  // Whatever the tests leave behind goes with it.
  const folder = mkdtempSync(join(tmpdir(), "lorikeet-tests-"));
  return new Promise((resolve) => {
    const env = { ...process.env, NO_COLOR: "1", FORCE_COLOR: "0", TMPDIR: folder };
    const child = spawn(bun, ["test", "--timeout", "60000", ...args], { cwd: root, env, stdio: ["ignore", "inherit", "pipe"] });
    let report = "";
    child.stderr.on("data", (part) => {
      process.stderr.write(part);
      // Only the summary at the end is read again.
      report = (report + part).slice(-65_536);
    });
    child.on("error", () => resolve({ passed: 0, failed: 1 }));
    child.on("close", (code) => resolve(countTests(report, code)));
  }).finally(() => rmSync(folder, { recursive: true, force: true }));
}

/** Rebuilds the WASM binary beside the committed one and compares them. @returns an exit code */
async function checkWasm() {
  const version = emscripten() ?? installEmscripten();
  if (version === undefined) {
    say("Emscripten is not here, so the WASM binary was not rebuilt; the operation tests check the committed one");
    return 0;
  }
  const folder = mkdtempSync(join(tmpdir(), "lorikeet-wasm-"));
  try {
    const built = join(folder, "lorikeet.wasm");
    const code = await run("bash", ["native/wasm/build.sh", built]);
    if (code !== 0 || !existsSync(built)) return 1;
    const committed = readFileSync(join(root, "native/wasm/lorikeet.wasm"));
    if (committed.equals(readFileSync(built))) {
      say("the WASM binary is what its source gives, byte for byte");
      return 0;
    }
    if (version === EMSCRIPTEN) {
      say("native/wasm/lorikeet.wasm is not what its source gives; run native/wasm/build.sh and commit it");
      return 1;
    }
    say(`Emscripten ${version} gives other bytes than ${EMSCRIPTEN}; the operation tests check the committed binary`);
    return 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Compiles for every kind of device that is served and runs the tests that need none. @returns an exit code */
async function checkCuda(bun) {
  const missing = whatIsMissing();
  if (missing !== undefined) {
    say(`the CUDA sources were not compiled: ${missing}`);
    return 0;
  }
  if (isCi() && !(hasDoctest() && hasProgram("ninja") && hasProgram("ccache"))) {
    say("installing doctest, Ninja and ccache");
    aptInstall("doctest-dev", "ninja-build", "ccache");
  }
  const withTests = hasDoctest();
  if (!withTests) say("doctest is not here (Debian: doctest-dev), so the host-side tests of the CUDA engine are not run");
  // As named in CMakeLists.txt; said here because a build folder may have been made for one device alone.
  const code = await buildCuda(bun, ["-DCMAKE_CUDA_ARCHITECTURES=80;89-real;90a-real", `-DLORIKEET_TESTS=${withTests ? "ON" : "OFF"}`]);
  if (code !== 0 || !withTests) return code;
  return run("ctest", ["--test-dir", BUILD, "--output-on-failure", "--no-tests=error"]);
}

function emscripten() {
  const { status, stdout } = spawnSync("emcc", ["--version"], { encoding: "utf8" });
  return status === 0 ? (/\b\d+\.\d+\.\d+\b/.exec(stdout)?.[0] ?? "of unknown version") : undefined;
}

function installEmscripten() {
  if (!isCi()) return undefined;
  say("installing Emscripten");
  return aptInstall("emscripten") ? emscripten() : undefined;
}

function installChromium() {
  const isHere = () => hasProgram("chromium") || hasProgram("chromium-browser") || hasProgram("google-chrome");
  if (isHere()) return;
  if (isCi()) {
    say("installing Chromium");
    aptInstall("chromium");
  }
  if (!isHere()) say("Chromium is not here (Debian: chromium), so the page is not tested in a browser");
}

/** Packages are installed on a CI machine only: nobody's own machine is changed. */
const isCi = () => process.env.CI === "true" && process.getuid?.() === 0;

function aptInstall(...packages) {
  const apt = (...args) => spawnSync("apt-get", args, { stdio: ["ignore", 2, 2], timeout: 240_000 }).status === 0;
  return apt("update", "-qq") && apt("install", "-y", "-qq", "--no-install-recommends", ...packages);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
