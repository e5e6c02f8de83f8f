/** The table of SECURITY.md against the tests that it names. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { REPOSITORY } from "../helpers/repository.ts";

const rows = readFileSync(join(REPOSITORY, "SECURITY.md"), "utf8")
  .split("\n")
  .flatMap((line) => /^\| ([AP]\d+) \| (.+?) \| (.+) \|$/.exec(line)?.slice(1) ?? [])
  .reduce<string[][]>((all, cell, i) => (i % 3 === 0 ? [...all, [cell]] : [...all.slice(0, -1), [...all.at(-1)!, cell]]), []);

test("the table has every attack once", () => {
  const ids = [...Array.from({ length: 18 }, (_, i) => `A${i + 1}`), ...Array.from({ length: 9 }, (_, i) => `P${i + 1}`)];
  expect(rows.map(([id]) => id!)).toEqual(ids);
});

test.each(rows.map(([id, attack, tests]) => [id!, attack!, tests!] as const))("%s, %s: its tests are there", (_, __, tests) => {
  const named = tests.split("<br>").map((each) => /^`(test\/[\w./-]+\.test\.ts)`: (.+)$/.exec(each));
  expect(named.length).toBeGreaterThan(0);
  for (const match of named) {
    const [, file, title] = match ?? [];
    expect({ file, isThere: existsSync(join(REPOSITORY, file!)) }).toEqual({ file, isThere: true });
    const source = readFileSync(join(REPOSITORY, file!), "utf8");
    // A title in quotes: of a test, or of a case in a test's table.
    const isThere = source.includes(`"${title}`);
    expect({ file, title, isThere }).toEqual({ file, title, isThere: true });
  }
});
