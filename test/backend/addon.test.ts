/** Finding and loading the native addon: what is tried, and what is said where it fails. */
import { describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { loadAddon } from "../../src/backend/cuda/addon.ts";
import { ADDON_VERSION } from "../../src/backend/cuda/layout.ts";
import { ABI_VERSION } from "../../src/core/step-layout.ts";
import { NativeError } from "../../src/core/errors.ts";
import { thrownBy } from "../helpers/thrown.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const BUILT = join(REPOSITORY, "native/cuda/build/Release/lorikeet-cuda.node");
const files = mkdtempSync(join(tmpdir(), "lorikeet-addon-"));

function write(name: string, content: string): string {
  const path = join(files, name);
  writeFileSync(path, content);
  return path;
}

const load = (path: string) => loadAddon({ LORIKEET_CUDA_ADDON: path });

function refusal(path: string): string {
  const thrown = thrownBy(() => load(path));
  expect(thrown).toBeInstanceOf(NativeError);
  expect(thrown).toMatchObject({ errorCode: "backend_unavailable", field: "backend" });
  return (thrown as Error).message;
}

/** A module that answers as an addon does. */
const fake = (abiVersion: number, version: number) =>
  write(`abi-${abiVersion}-${version}.cjs`, `module.exports = { abiVersion: ${abiVersion}, version: ${version}, probe: () => ({ devices: [], code: "no_driver", reason: "a fake" }) };`);

describe("the addon that LORIKEET_CUDA_ADDON names", () => {
  test("is refused when the file is missing", () => {
    expect(refusal(join(files, "none.node"))).toBe("LORIKEET_CUDA_ADDON names a file that does not exist");
  });

  test("is refused with the loader's words, without the path, when the file is no library", () => {
    const path = write("text.node", "this is no library");
    const message = refusal(path);
    expect(message).toMatch(/^the CUDA addon could not be loaded: .+/);
    expect(message).not.toContain(files);
    expect(message).not.toContain("\n");
  });

  test("is refused when the library was cut short", () => {
    const path = write("short.node", "\x7fELF");
    expect(refusal(path)).toMatch(/^the CUDA addon could not be loaded: .+/);
  });

  test.each([[ABI_VERSION - 1, ADDON_VERSION], [ABI_VERSION + 1, ADDON_VERSION], [ABI_VERSION, ADDON_VERSION - 1], [ABI_VERSION, ADDON_VERSION + 1]])("is refused when it is of versions %d %d", (abiVersion, version) => {
    expect(refusal(fake(abiVersion, version))).toBe("the CUDA addon is of another version; build it again");
  });

  test("is loaded when it is of this version", () => {
    expect(load(fake(ABI_VERSION, ADDON_VERSION)).probe().reason).toBe("a fake");
  });

  test("may be named from the folder of the caller", () => {
    const path = relative(process.cwd(), fake(ABI_VERSION, ADDON_VERSION));
    expect(load(path).abiVersion).toBe(ABI_VERSION);
    expect(load(`./${path}`).abiVersion).toBe(ABI_VERSION);
  });
});

describe.skipIf(existsSync(BUILT))("an addon that is not built", () => {
  test("is asked for by the command that builds it", () => {
    expect(thrownBy(() => loadAddon({}))).toMatchObject({
      errorCode: "backend_unavailable",
      message: "the CUDA addon is not built; run `bun run build:cuda` on a machine with nvcc",
    });
  });
});

if (!existsSync(BUILT)) console.warn("the tests of the built CUDA addon are skipped: it is not built");

describe.skipIf(!existsSync(BUILT))("the built addon", () => {
  test("loads, from wherever it lies, and probes again and again", () => {
    const copy = join(files, "copy.node");
    copyFileSync(BUILT, copy);
    for (const addon of [loadAddon({}), load(BUILT), load(copy)]) {
      expect([addon.abiVersion, addon.version]).toEqual([ABI_VERSION, ADDON_VERSION]);
      expect(typeof addon.Engine).toBe("function");
      expect(addon.probe()).toEqual(addon.probe());
    }
  });

  test("answers with devices, or with why there are none", () => {
    const { devices, code, reason } = loadAddon({}).probe();
    if (devices.length > 0) {
      expect([code, reason]).toEqual(["", ""]);
      for (const { name, major, totalBytes, freeBytes } of devices) {
        expect(name.length).toBeGreaterThan(0);
        expect(major).toBeGreaterThan(0);
        expect(freeBytes).toBeLessThanOrEqual(totalBytes);
      }
      return;
    }
    expect(["no_driver", "old_driver", "no_device"]).toContain(code);
    expect(reason.length).toBeGreaterThan(10);
    if (!existsSync("/proc/driver/nvidia")) expect([code, reason]).toEqual(["no_driver", "no NVIDIA driver is installed"]);
  });
});
