/**
 * Runs Bun, wherever it is, with everything installed that the project needs:
 *
 *   node scripts/bun.mjs run bench/run.ts
 *
 * Plain JavaScript without dependencies, so that Node 20 and npm are all that a machine needs at first; it
 * runs under Bun as well. Bun comes as a package from npm. Its platform package is taken directly, because
 * the wrapper package only works after an install script, and npm 12 runs none.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, dirname, join, sep } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const BUN_VERSION = "1.4.5";
const isWindows = process.platform === "win32";
const EXE = isWindows ? "bun.exe" : "bun";

/**
 * Path of a Bun that is new enough; installed if there is none.
 *
 * @param machine where to look: the Bun that runs this, the search path, folders of packages, and the folder where it is installed
 */
export function findBun(machine = thisMachine()) {
  const [platform, fallback] = platformPackages();
  const candidates = [
    ...(machine.own === undefined ? [] : [machine.own]),
    ...machine.path.split(delimiter).filter(Boolean).map((dir) => join(dir, EXE)),
    ...[platform, fallback].filter(Boolean).flatMap((name) =>
      [...machine.packages, join(machine.store, "node_modules")].map((folder) => join(folder, name, "bin", EXE)),
    ),
  ];
  return candidates.find(isUsable) ?? installBun(platform, machine.store) ?? installBun(fallback, machine.store) ?? noBun(platform, machine.store);
}

const thisMachine = () => ({
  own: process.versions.bun === undefined ? undefined : process.execPath,
  path: process.env.PATH ?? "",
  packages: isPackage ? [join(root, "node_modules"), dirname(root)] : [join(root, "node_modules")],
  // A package's own folder may be read-only, and goes with its next version.
  store: isPackage ? join(cacheFolder(), "lorikeet") : join(root, ".bun"),
});

const isPackage = root.split(sep).includes("node_modules");

function cacheFolder() {
  if (process.env.XDG_CACHE_HOME) return process.env.XDG_CACHE_HOME;
  if (isWindows) return process.env.LOCALAPPDATA ?? join(homedir(), "AppData", "Local");
  return process.platform === "darwin" ? join(homedir(), "Library", "Caches") : join(homedir(), ".cache");
}

/** Installs the packages when the lock file or a patch has changed since they were last installed, or one is missing. */
export function installPackages(bun) {
  const stamp = join(root, "node_modules", ".installed");
  const wanted = installDigest();
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted && missingPackages().length === 0) return;
  say("installing packages");
  const { status } = spawnSync(bun, ["install", "--frozen-lockfile"], { cwd: root, stdio: ["ignore", 2, 2] });
  if (status !== 0) fail("the packages could not be installed; see the messages above");
  // Not written through: another checkout's packages may be hard links to these, the stamp among them.
  rmSync(stamp, { force: true });
  writeFileSync(stamp, wanted);
}

/** Those of package.json that are not there, whatever a stamp says. */
export function missingPackages(folder = root) {
  const { dependencies = {}, devDependencies = {} } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return Object.keys({ ...dependencies, ...devDependencies }).filter((name) => !existsSync(join(folder, "node_modules", name)));
}

/** Runs a command to its end with this process' streams and signals. @returns its exit code */
export function run(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", ...options });
    const forward = (signal) => child.kill(signal);
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, forward);
    child.on("error", (error) => {
      say(`${command} could not be started: ${error.message}`);
      resolve(127);
    });
    child.on("close", (code, signal) => {
      for (const name of ["SIGINT", "SIGTERM"]) process.off(name, forward);
      resolve(code ?? (signal === "SIGINT" ? 130 : 143));
    });
  });
}

export const say = (text) => void process.stderr.write(`${text}\n`);

/** @returns {never} */
export function fail(text) {
  say(`error: ${text}`);
  process.exit(1);
}

/** The package for this machine, and the one that also runs on old processors. */
export function platformPackages() {
  const os = { linux: "linux", darwin: "darwin", win32: "windows" }[process.platform];
  const cpu = { x64: "x64", arm64: "aarch64" }[process.arch];
  if (os === undefined || cpu === undefined) {
    fail(`Bun does not run on ${process.platform} ${process.arch}`);
  }
  const libc = os === "linux" && isMusl() ? "-musl" : "";
  const name = `@oven/bun-${os}-${cpu}${libc}`;
  if (cpu !== "x64") return [name, undefined];
  const baseline = `${name}-baseline`;
  return hasAvx2() ? [name, baseline] : [baseline, undefined];
}

function isMusl() {
  try {
    return readdirSync("/lib").some((file) => file.startsWith("ld-musl-")) && !existsSync("/lib64/ld-linux-x86-64.so.2");
  } catch {
    return false;
  }
}

/** Bun's usual build needs AVX2 and dies of an illegal instruction without it. */
function hasAvx2() {
  if (process.platform === "linux") return /\bavx2\b/.test(readFileSync("/proc/cpuinfo", "utf8"));
  if (process.platform === "darwin") return spawnSync("sysctl", ["-n", "hw.optional.avx2_0"]).stdout?.toString().trim() === "1";
  return false;
}

function isUsable(path) {
  if (!existsSync(path)) return false;
  const { status, stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
  return status === 0 && isAtLeast(stdout.trim(), BUN_VERSION);
}

export function isAtLeast(version, wanted) {
  const found = /^(\d+)\.(\d+)\.(\d+)/.exec(version)?.slice(1).map(Number);
  if (found === undefined) return false;
  const least = wanted.split(".").map(Number);
  const at = found.findIndex((number, i) => number !== least[i]);
  return at === -1 || found[at] > least[at];
}

function installBun(name, store) {
  if (name === undefined) return undefined;
  say(`installing Bun ${BUN_VERSION}`);
  const args = [
    "install", "--prefix", store, "--no-save", "--no-package-lock", "--ignore-scripts",
    "--no-audit", "--no-fund", "--loglevel", "error", `${name}@${BUN_VERSION}`,
  ];
  // Started through npm, its own path is known; otherwise it is looked up.
  const npm = process.env.npm_execpath ?? "";
  const isScript = /npm-cli\.[cm]?js$/.test(npm);
  mkdirSync(store, { recursive: true });
  const options = { cwd: store, stdio: ["ignore", 2, 2], shell: isWindows && !isScript };
  if (isScript) spawnSync(process.execPath, [npm, ...args], options);
  else spawnSync("npm", args, options);
  const path = join(store, "node_modules", name, "bin", EXE);
  if (existsSync(path) && !isWindows) chmodSync(path, 0o755);
  return isUsable(path) ? path : undefined;
}

const noBun = (name, store) =>
  fail(`Bun ${BUN_VERSION} or newer was not found and could not be installed; try npm install --prefix ${store} ${name}@${BUN_VERSION}`);

function installDigest() {
  const hash = createHash("sha256");
  const patches = join(root, "patches");
  const files = existsSync(patches) ? readdirSync(patches).sort().map((file) => join(patches, file)) : [];
  for (const file of [join(root, "bun.lock"), ...files]) hash.update(readFileSync(file));
  return hash.digest("hex");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const bun = findBun();
  installPackages(bun);
  // A path in the arguments is the caller's.
  process.exitCode = await run(bun, process.argv.slice(2), { cwd: process.cwd() });
}
