import { describe, expect, test } from "bun:test";
import { chmod, mkdir, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findBun, isAtLeast, missingPackages, platformPackages } from "../../scripts/bun.mjs";
import { buildCommands, whatIsMissing } from "../../scripts/build-cuda.mjs";
import { countTests } from "../../scripts/test.mjs";

describe("the version check", () => {
  test.each([
    ["1.4.5", true],
    ["1.4.6", true],
    ["1.5.0", true],
    ["2.0.0", true],
    ["1.4.5-canary.3+abc", true],
    ["1.4.4", false],
    ["1.3.9", false],
    ["0.9.9", false],
    ["", false],
    ["not a version", false],
  ])("takes %p: %p", (version, isGood) => {
    expect(isAtLeast(version, "1.4.5")).toBe(isGood);
  });
});

test("a package that is missing is noticed, whatever was said to be installed", async () => {
  const folder = await mkdtemp(join(tmpdir(), "lorikeet-packages-"));
  await Bun.write(join(folder, "package.json"), JSON.stringify({ dependencies: { "@scope/a": "1.0.0", b: "1.0.0" }, devDependencies: { c: "1.0.0" } }));
  for (const name of ["@scope/a", "c"]) await mkdir(join(folder, "node_modules", name), { recursive: true });
  expect(missingPackages(folder)).toEqual(["b"]);
  expect(missingPackages()).toEqual([]);
});

describe("Bun", () => {
  /** A folder with programs that say they are Bun of some version. */
  async function machine(programs: Readonly<Record<string, string>>) {
    const home = await mkdtemp(join(tmpdir(), "lorikeet-setup-"));
    for (const [path, version] of Object.entries(programs)) {
      await Bun.write(join(home, path), `#!/bin/sh\necho ${version}\n`);
      await chmod(join(home, path), 0o755);
    }
    return { home, own: undefined, path: join(home, "bin"), packages: [join(home, "node_modules")], store: join(home, ".bun") };
  }
  const packaged = (folder: string) => `${folder}/${platformPackages()[0]}/bin/bun`;

  test("that runs these tests is found first", () => {
    expect(findBun()).toBe(process.execPath);
  });

  test("is taken from the search path when it is new enough", async () => {
    const found = await machine({ "bin/bun": "1.4.9", [packaged(".bun/node_modules")]: "1.4.5" });
    expect(findBun(found)).toBe(join(found.home, "bin/bun"));
  });

  test("that is too old, or the wrapper package without its binary, is passed over", async () => {
    const found = await machine({ "bin/bun": "1.3.0", [packaged(".bun/node_modules")]: "1.4.5" });
    expect(findBun(found)).toBe(join(found.home, packaged(".bun/node_modules")));
    const stub = await machine({ "bin/bun": "'Error: no postinstall script was run' >&2; exit 1", [packaged("node_modules")]: "1.4.5" });
    expect(findBun(stub)).toBe(join(stub.home, packaged("node_modules")));
  });

  test("comes from a package of this platform that really is its name", () => {
    const [name, fallback] = platformPackages();
    expect(name).toMatch(/^@oven\/bun-(linux|darwin|windows)-(x64|aarch64)(-musl)?(-baseline)?$/);
    if (fallback !== undefined) expect(fallback).toBe(`${name}-baseline`);
  });
});

describe("the count of tests", () => {
  const report = (pass: number, fail: number, more = "") => `(pass) x\n\n ${pass} pass\n${more} ${fail} fail\n 9 expect() calls\nRan 3 tests.\n`;

  test("is read from the summary", () => {
    expect(countTests(report(12, 0), 0)).toEqual({ passed: 12, failed: 0 });
    expect(countTests(report(12, 3, " 2 skip\n"), 1)).toEqual({ passed: 12, failed: 3 });
  });

  test("takes the last summary, not a line that a test printed", () => {
    expect(countTests(` 99 pass\n${report(5, 1)}`, 1)).toEqual({ passed: 5, failed: 1 });
  });

  test("counts errors outside of tests as failed", () => {
    expect(countTests(" 5 pass\n 0 fail\n 1 error\n", 1)).toEqual({ passed: 5, failed: 1 });
  });

  test("is never free of failures when the run failed", () => {
    expect(countTests("", 1)).toEqual({ passed: 0, failed: 1 });
    expect(countTests(report(5, 0), 139)).toEqual({ passed: 5, failed: 1 });
  });
});

describe("the build of the CUDA addon", () => {
  const machine = { bun: "/bin/bun", definitions: ["-DLORIKEET_TESTS=ON"], jobs: "2", hasCmakeJs: true, isConfigured: false, hasNinja: true };
  const lines = (changes: Partial<typeof machine>) =>
    buildCommands({ ...machine, ...changes }).map((command) => command.map((word) => word.replace(/^\/.*\/(?=native\/|node_modules\/)/, "")).join(" "));

  test("goes through cmake-js where it is installed", () => {
    const rest = "--directory native/cuda --parallel 2 --CDLORIKEET_TESTS=ON";
    const cmakeJs = "/bin/bun --bun node_modules/cmake-js/bin/cmake-js";
    expect(lines({})).toEqual([`${cmakeJs} configure ${rest}`, `${cmakeJs} build ${rest}`]);
  });

  test.each([
    ["Ninja where it is", {}, " -G Ninja"],
    ["CMake's own choice where it is not", { hasNinja: false }, ""],
    ["what a folder was configured for", { isConfigured: true }, ""],
  ])("goes through CMake alone elsewhere, with %s", (_, changes, generator) => {
    expect(lines({ hasCmakeJs: false, ...changes })).toEqual([
      `cmake -S native/cuda -B native/cuda/build${generator} -DLORIKEET_TESTS=ON`,
      "cmake --build native/cuda/build --parallel 2",
    ]);
  });

  test.each([
    [["nvcc", "cmake"], undefined],
    [["cmake"], "nvcc is not on the search path; install the CUDA toolkit (12.8 or newer), or add its bin folder to PATH"],
    [[], "nvcc is not on the search path; install the CUDA toolkit (12.8 or newer), or add its bin folder to PATH"],
    [["nvcc"], "cmake is not on the search path; install CMake 3.25 or newer"],
  ])("with %p: %p", (programs: readonly string[], missing) => {
    expect(whatIsMissing((name) => programs.includes(name))).toBe(missing);
  });
});
