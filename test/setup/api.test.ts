/** The reference of what programs import. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SERVER_SETTINGS, SETTINGS } from "../../src/config/settings.ts";
import * as library from "../../src/index.ts";
import * as mounted from "../../src/mount.ts";
import { API_FOLDER, apiPages } from "../../scripts/generate-api.ts";

const written = () => {
  const paths = readdirSync(API_FOLDER, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".md"));
  return new Map(paths.toSorted().map((path) => [path, readFileSync(join(API_FOLDER, path), "utf8")]));
};

test("is what the docstrings say, and all have one; `bun run generate` writes it again", async () => {
  expect(Object.fromEntries(written())).toEqual(Object.fromEntries(await apiPages()));
}, 60_000);

test("has every export and every option", () => {
  const pages = written();
  const titles = (page: string) => [...pages.get(page)!.matchAll(/^### (?:`\w+` )?(\w+)/gm)].map(([, name]) => name!);
  expect(Object.keys(library).filter((name) => !titles("lorikeet.md").includes(name))).toEqual([]);
  expect(Object.keys(mounted).filter((name) => !titles("lorikeet/http.md").includes(name))).toEqual([]);
  const options = [...SETTINGS.keys()].filter((name) => !Object.hasOwn(SERVER_SETTINGS, name)).map((name) => name.split(".").at(-1)!);
  expect(options.length).toBeGreaterThan(30);
  expect(options.filter((name) => !new RegExp(`\\| <a [^>]*></a> \`${name}\\??\` \\|`).test(pages.get("lorikeet.md")!))).toEqual([]);
});
