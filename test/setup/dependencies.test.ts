/** What is installed is what was looked at. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import packageJson from "../../package.json" with { type: "json" };
import { REPOSITORY } from "../helpers/repository.ts";

test("are pinned to one version each, and to its hash", () => {
  const all = Object.entries({ ...packageJson.dependencies, ...packageJson.devDependencies });
  expect(all.filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))).toEqual([]);
  // Of every package, those that others bring along too: [id, registry, details, hash].
  const lock = readFileSync(join(REPOSITORY, "bun.lock"), "utf8");
  const packages = lock.slice(lock.indexOf('"packages"')).split("\n").filter((line) => /^ {4}"[^"]+": \[/.test(line));
  expect(packages.length).toBeGreaterThanOrEqual(all.length);
  expect(packages.filter((line) => !/"sha512-[A-Za-z0-9+/]{86}=="\],?$/.test(line))).toEqual([]);
});

test("are installed as the lock file says: an install takes the lock file as it is", () => {
  expect(readFileSync(join(REPOSITORY, "scripts/bun.mjs"), "utf8")).toContain('["install", "--frozen-lockfile"]');
});
