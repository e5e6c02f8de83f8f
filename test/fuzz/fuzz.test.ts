/** A short part of the long run, and the proof that the harness sees a broken reader. */
import { describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fuzz, FUZZ_LIMITS, type Target } from "./harness.ts";
import { type Readers, targetsOf } from "./targets.ts";
import type { RecordedRun } from "./run.ts";

const ROOT = join(import.meta.dir, "../..");
const INPUTS = 12_000;

describe("readers of untrusted files", () => {
  test.each(targetsOf().map((target) => [target.name, target] as const))("%s: refused by name, or true", (_, target) => {
    const result = fuzz(target, 20_26, { ...FUZZ_LIMITS, inputs: INPUTS, maxMs: 30_000 });
    expect(result.faults).toEqual([]);
    expect(result.inputs).toBe(INPUTS);
    // Both ends must be reached, or nothing was tried.
    expect(result.accepted).toBeGreaterThan(INPUTS / 200);
    expect(result.refused).toBeGreaterThan(INPUTS / 200);
  });

  test("gives the same inputs for the same seed", () => {
    const [first, second] = [targetsOf()[1]!, targetsOf()[1]!].map((target) => fuzz(target, 7, { ...FUZZ_LIMITS, inputs: 2000 }));
    expect(first!.accepted).toBe(second!.accepted);
  });
});

/** The readers with one line changed, in a place of their own. */
async function brokenReaders(file: string, from: string, to: string): Promise<Readers> {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-broken-"));
  for (const folder of ["core", "formats", "lora", "model"]) cpSync(join(ROOT, "src", folder), join(directory, "src", folder), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(directory, "node_modules"));
  const path = join(directory, "src", file);
  const source = readFileSync(path, "utf8");
  expect(source.split(from).length).toBe(2);
  writeFileSync(path, source.replace(from, () => to));
  const load = (module: string): Promise<unknown> => import(join(directory, "src", module));
  const readers = {
    adapterConfig: await load("lora/adapter-config.ts"),
    json: await load("formats/json.ts"),
    safetensors: await load("formats/safetensors.ts"),
    tar: await load("formats/tar.ts"),
    torchFile: await load("formats/torch-file.ts"),
    zip: await load("formats/zip.ts"),
  } as Readers;
  rmSync(directory, { recursive: true });
  return readers;
}

describe("a broken reader is found out", () => {
  test.each([
    ["safetensors", "holes and overlaps", "formats/safetensors.ts", "if (entry.begin !== covered) {", "if (false) {"],
    ["safetensors", "another size than the shape's", "formats/safetensors.ts", "if (numBytes !== end - begin) {", "if (false) {"],
    ["zip", "overlapping entries", "formats/zip.ts", "if (start !== reached) {", "if (false) {"],
    ["zip", "wrong checksums", "formats/zip.ts", "if (crc32(bytes) !== entry.crc)", "if (false)"],
    ["zip", "paths that leave", "formats/member-name.ts", 'part === "" || part === "." || part === ".."', "false"],
    ["torch zip and pickle", "any name", "formats/pickle.ts", "if (!this.#host.allows(global)) {", "if (false) {"],
    ["torch zip and pickle", "tensors outside their storage", "formats/torch-tensor.ts", "|| end * size > storage.numBytes", ""],
    ["torch zip and pickle", "wrong elements of strided views", "formats/torch-tensor.ts", "element -= strides[dim]! * shape[dim]!;", ""],
    ["torch zip and pickle", "errors of the language", "formats/pickle.ts", "if (from + length > this.#end) throw this.#short(length);", ""],
    ["torch legacy", "tensors larger than the file", "formats/torch-file.ts", "if (total > MAX_NAMES * fileBytes) {", "if (false) {"],
    ["tar", "links", "formats/tar.ts", 'if (type !== "0" && type !== "\\0") {', "if (false) {"],
    ["tar", "paths that leave", "formats/member-name.ts", 'part === "" || part === "." || part === ".."', "false"],
    ["adapter_config", "fields that are not served", "lora/adapter-config.ts", "if (isSet(json[field])) throw", "if (false) throw"],
    ["adapter_config", "ranks below 1", "lora/adapter-config.ts", 'rank: integer(json["r"] ?? 8, "r", 1, MAX_RANK)', 'rank: integer(json["r"] ?? 8, "r", -1, MAX_RANK)'],
  ])("%s, which takes %s", async (name, _, file, from, to) => {
    const target = targetsOf(await brokenReaders(file, from, to)).find((each) => each.name === name)!;
    const { faults } = fuzz(target, 20_26, { ...FUZZ_LIMITS, inputs: 60_000, maxMs: 20_000 });
    expect(faults.length).toBeGreaterThan(0);
  }, 30_000);

  const misbehaving = (parse: () => unknown): Target<unknown> => ({ name: "x", generate: () => new Uint8Array(1), parse, check: () => null });

  test("one that is slow, one that keeps memory, and one that throws anything else", () => {
    const slow = misbehaving(() => Bun.sleepSync(15));
    expect(fuzz(slow, 1, { ...FUZZ_LIMITS, inputs: 1, maxInputMs: 10 }).faults[0]).toContain("took ");
    const kept: Uint8Array[] = [];
    const greedy = misbehaving(() => kept.push(new Uint8Array(32_768).fill(1)));
    expect(fuzz(greedy, 1, { ...FUZZ_LIMITS, inputs: 8192, maxGrowthBytes: 32 * 1024 * 1024 }).faults.at(-1)).toContain("the process grew by");
    const rude = misbehaving(() => {
      throw new TypeError("undefined is not an object");
    });
    expect(fuzz(rude, 1, { ...FUZZ_LIMITS, inputs: 1 }).faults[0]).toContain("was refused with TypeError");
  });
});

test("the recorded runs add up, found nothing, and reached both ends of every reader", () => {
  const { inputs, runs } = JSON.parse(readFileSync(join(import.meta.dir, "results.json"), "utf8")) as { inputs: number; runs: RecordedRun[] };
  expect(inputs).toBe(runs.reduce((sum, run) => sum + run.targets.reduce((all, each) => all + each.inputs, 0), 0));
  for (const run of runs) {
    expect(run.faults).toEqual([]);
    for (const target of run.targets) expect([target.target, target.accepted > 0 && target.refused > 0]).toEqual([target.target, true]);
  }
});
