/**
 * `npm test`: types, lint, the native sources, then every test. The last line is `N passed, N failed`.
 *
 * Further arguments go to `bun test`.
 */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { findBun, installPackages, root, run, say } from "./bun.mjs";

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
    { name: "lint", check: () => run(bun, ["--bun", "node_modules/.bin/oxlint", "--type-aware", "--deny-warnings"]) },
    { name: "native sources", check: checkWasm },
  ];
  let failed = 0;
  for (const { name, check } of stages) {
    say(`== ${name}`);
    const isGood = (await check()) === 0;
    if (!isGood) failed++;
    say(`== ${name}: ${isGood ? "good" : "FAILED"}`);
  }
  say("== tests");
  const tests = await runTests(bun, process.argv.slice(2));
  failed += tests.failed;
  process.exitCode = failed === 0 ? 0 : 1;
  process.stdout.write(`${tests.passed} passed, ${failed} failed\n`);
}

function runTests(bun, args) {
  return new Promise((resolve) => {
    const env = { ...process.env, NO_COLOR: "1", FORCE_COLOR: "0" };
    const child = spawn(bun, ["test", "--timeout", "60000", ...args], { cwd: root, env, stdio: ["ignore", "inherit", "pipe"] });
    let report = "";
    child.stderr.on("data", (part) => {
      process.stderr.write(part);
      // Only the summary at the end is read again.
      report = (report + part).slice(-65_536);
    });
    child.on("error", () => resolve({ passed: 0, failed: 1 }));
    child.on("close", (code) => resolve(countTests(report, code)));
  });
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

function emscripten() {
  const { status, stdout } = spawnSync("emcc", ["--version"], { encoding: "utf8" });
  return status === 0 ? (/\b\d+\.\d+\.\d+\b/.exec(stdout)?.[0] ?? "of unknown version") : undefined;
}

/** On a CI machine only: nobody's own machine is changed. */
function installEmscripten() {
  if (process.env.CI !== "true" || process.getuid?.() !== 0) return undefined;
  const apt = (...args) => spawnSync("apt-get", args, { stdio: ["ignore", 2, 2], timeout: 240_000 }).status === 0;
  say("installing Emscripten");
  if (!apt("update", "-qq")) return undefined;
  return apt("install", "-y", "-qq", "--no-install-recommends", "emscripten") ? emscripten() : undefined;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main();
