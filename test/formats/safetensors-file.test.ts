import { describe, expect, test } from "bun:test";
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FormatError } from "../../src/formats/format-error.ts";
import { SafetensorsFile } from "../../src/formats/safetensors-file.ts";
import { encodeSafetensors, writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

const DATA = Uint8Array.from({ length: 24 }, (_, i) => i + 1);

function writeFile(): string {
  const bytes = encodeSafetensors({ a: { shape: [2] }, b: { shape: [2, 3], bytes: DATA } });
  return join(writeDirectory({ "x.safetensors": bytes }), "x.safetensors");
}

describe("SafetensorsFile", () => {
  test("reads any part of a tensor into shared memory", () => {
    const file = SafetensorsFile.open(writeFile());
    const target = new Uint8Array(new SharedArrayBuffer(64), 8, 12);
    file.read(file.tensors.get("b")!, 4, target);
    expect([...target]).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
  });

  test("reads the same on other threads, however many at once", async () => {
    const file = SafetensorsFile.open(writeFile());
    const target = new Uint8Array(new SharedArrayBuffer(24));
    await Promise.all(Array.from({ length: 24 }, (_, i) => file.readAsync(file.tensors.get("b")!, i, target.subarray(i, i + 1))));
    expect([...target]).toEqual([...DATA]);
  });

  test("refuses to read beyond the tensor", async () => {
    const file = SafetensorsFile.open(writeFile());
    const entry = file.tensors.get("a")!;
    await expect(file.readAsync(entry, 4, new Uint8Array(8))).rejects.toThrow("leaves the tensor");
    expect(() => file.read(entry, 4, new Uint8Array(8))).toThrow("leaves the tensor");
    expect(() => file.read(entry, -4, new Uint8Array(4))).toThrow("leaves the tensor");
  });

  test("refuses to read from a file that was changed after its header was read", async () => {
    const path = writeFile();
    const file = SafetensorsFile.open(path);
    truncateSync(path, 40);
    const thrown = thrownBy(() => file.read(file.tensors.get("b")!, 0, new Uint8Array(24)));
    expect(thrown).toBeInstanceOf(FormatError);
    expect((thrown as FormatError).message).toContain("changed while it was read");
    await expect(file.readAsync(file.tensors.get("b")!, 0, new Uint8Array(24))).rejects.toThrow("changed while it was read");
  });

  test("refuses a file that is cut inside its header or its data, and a directory", () => {
    const path = writeFile();
    truncateSync(path, 100);
    expect(() => SafetensorsFile.open(path)).toThrow("it is truncated");
    const whole = encodeSafetensors({ a: { shape: [2] } });
    writeFileSync(path, whole.subarray(0, whole.length - 1));
    expect(() => SafetensorsFile.open(path)).toThrow("has 7 bytes of data, but its tensors take 8");
    writeFileSync(path, "abc");
    expect(() => SafetensorsFile.open(path)).toThrow("has 3 bytes, too few");
    expect(() => SafetensorsFile.open(join(path, ".."))).toThrow("not a regular file");
  });
});
