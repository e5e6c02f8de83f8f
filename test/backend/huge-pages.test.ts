import { ptr } from "bun:ffi";
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "bun:test";
import { createMemory } from "../../src/backend/wasm/module.ts";

/** `VmFlags` of the mapping that an address of this process lies in. */
function flagsAt(address: number): string[] {
  let isInside = false;
  for (const line of readFileSync("/proc/self/smaps", "utf8").split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range !== null) isInside = Number.parseInt(range[1]!, 16) <= address && address < Number.parseInt(range[2]!, 16);
    else if (isInside && line.startsWith("VmFlags:")) return line.slice("VmFlags:".length).trim().split(" ");
  }
  return [];
}

test.skipIf(!existsSync("/sys/kernel/mm/transparent_hugepage"))("the system is asked for huge pages, from the first byte to the last", () => {
  const memory = createMemory(8 << 20);
  const start = ptr(new Uint8Array(memory.buffer));
  expect(flagsAt(start)).toContain("hg");
  expect(flagsAt(start + memory.buffer.byteLength - 1)).toContain("hg");
});
