import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { discoverAdapters, isAdapterName, resolveUnderRoots } from "../../src/lora/adapter-paths.ts";

function tree(): string {
  const base = realpathSync(mkdtempSync(join(tmpdir(), "lorikeet-paths-")));
  mkdirSync(join(base, "root/sql"), { recursive: true });
  mkdirSync(join(base, "root/team/fr"), { recursive: true });
  mkdirSync(join(base, "outside"));
  writeFileSync(join(base, "root/sql/adapter_config.json"), "{}");
  writeFileSync(join(base, "root/file"), "");
  symlinkSync(join(base, "outside"), join(base, "root/link"));
  symlinkSync(join(base, "root/sql"), join(base, "root/inner-link"));
  return base;
}

describe("paths in requests", () => {
  const base = tree();
  const roots = [join(base, "root")];

  test.each([
    ["relative", "sql", "root/sql"],
    ["absolute", join(base, "root/sql"), "root/sql"],
    ["nested", "team/fr", "root/team/fr"],
    ["with dots that stay inside", "team/../sql", "root/sql"],
    ["a link inside the root", "inner-link", "root/sql"],
    ["the root itself", ".", "root"],
  ])("under a root is found: %s", async (_, path, expected) => {
    expect(await resolveUnderRoots(path, roots)).toBe(join(base, expected));
  });

  test.each([
    "", "/", "/etc", "/etc/passwd", "..", "../outside", "sql/../../outside", join(base, "outside"), "link", "file", "missing",
    "sql\0", "file:///etc", "https://example.com/x", "s3://bucket/x", "~", "root", `${join(base, "root")}-other`,
  ])("elsewhere is refused, always with the same words: %j", async (path) => {
    const error = await resolveUnderRoots(path, roots).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ errorCode: "forbidden_path" });
    expect((error as Error).message).toBe(
      "lora_path must be an adapter's directory or .nemo file under a root that the server allows (--adapter-root)",
    );
  });

  test("without roots every path is refused", () => {
    expect(resolveUnderRoots("sql", [])).rejects.toMatchObject({ errorCode: "forbidden_path" });
  });
});

describe("directories of adapters", () => {
  const base = tree();

  test("one adapter is named after its directory, or by name=DIR", async () => {
    const path = join(base, "root/sql");
    expect(await discoverAdapters(path)).toEqual([{ name: "sql", path }]);
    expect(await discoverAdapters(`other=${path}`)).toEqual([{ name: "other", path }]);
  });

  test("a directory of many gives each, sorted, links and other files aside", async () => {
    expect((await discoverAdapters(join(base, "root"))).map(({ name }) => name)).toEqual(["inner-link", "sql"]);
  });

  test.each([
    ["a missing directory", "none", "is not a directory"],
    ["one without adapters", "outside", "holds no adapter"],
  ])("%s is an error", (_, name, message) => {
    expect(discoverAdapters(join(base, name))).rejects.toThrow(message);
  });
});

test.each([
  ["sql", true], ["a/b", true], ["A-1.x_y", true], ["", false], ["-x", false], ["a/b/c", false], ["../x", false],
  ["a/..", false], ["a b", false], ["x".repeat(97), false], ["a\n", false],
])("%j is an adapter name: %p", (name, expected) => {
  expect(isAdapterName(name)).toBe(expected);
});

describe("NeMo archives", () => {
  const base = realpathSync(mkdtempSync(join(tmpdir(), "lorikeet-paths-")));
  for (const name of ["one", "many"]) mkdirSync(join(base, name));
  for (const name of ["one/x.nemo", "many/a.nemo", "many/b.nemo"]) writeFileSync(join(base, name), "");

  test("are adapters of their own name, or of their directory's where they are alone", async () => {
    expect(await discoverAdapters(join(base, "one"))).toEqual([{ name: "one", path: join(base, "one") }]);
    expect((await discoverAdapters(join(base, "many"))).map(({ name }) => name)).toEqual(["a", "b"]);
    expect(await discoverAdapters(join(base, "many/a.nemo"))).toEqual([{ name: "a", path: join(base, "many/a.nemo") }]);
    expect(await discoverAdapters(`fr=${join(base, "many/a.nemo")}`)).toEqual([{ name: "fr", path: join(base, "many/a.nemo") }]);
    expect((await discoverAdapters(base)).map(({ name }) => name)).toEqual(["one"]);
  });

  test("are found by requests under a root", async () => {
    expect(await resolveUnderRoots("many/a.nemo", [base])).toBe(join(base, "many/a.nemo"));
  });
});
