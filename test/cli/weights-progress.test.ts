import { expect, test } from "bun:test";
import { weightsProgress } from "../../src/weights-progress.ts";

function show(isTTY: boolean, times: readonly (readonly [ms: number, numBytes: number])[]): string {
  let text = "";
  let now = 0;
  const tell = weightsProgress({ isTTY, write: (part: string) => (text += part) }, () => now);
  for (const [ms, numBytes] of times) {
    now = ms;
    tell({ numBytes, totalBytes: 16_000_000_000 });
  }
  return text;
}

const SLOW = [[0, 1e8], [500, 1e9], [2000, 4e9], [2050, 5e9], [2200, 6e9], [13_000, 15e9], [14_000, 15.5e9], [16_000, 16e9]] as const;

test("is one line that changes in a terminal, and its sum at the end", () => {
  expect(show(true, SLOW).split("\r\u001b[2K")).toEqual([
    "",
    "reading weights: 4.0 GB of 16.0 GB, 25 %, 2.0 GB/s",
    "reading weights: 6.0 GB of 16.0 GB, 37 %, 2.7 GB/s",
    "reading weights: 15.0 GB of 16.0 GB, 93 %, 1.2 GB/s",
    "reading weights: 15.5 GB of 16.0 GB, 96 %, 1.1 GB/s",
    "weights read: 16.0 GB in 16.0 s, 1.0 GB/s\n",
  ]);
});

test("is a line now and then without a terminal", () => {
  expect(show(false, SLOW).split("\n")).toEqual([
    "reading weights: 4.0 GB of 16.0 GB, 25 %, 2.0 GB/s",
    "reading weights: 15.0 GB of 16.0 GB, 93 %, 1.2 GB/s",
    "weights read: 16.0 GB in 16.0 s, 1.0 GB/s",
    "",
  ]);
});

test("is nothing where it takes a moment", () => {
  for (const isTTY of [true, false]) expect(show(isTTY, [[0, 1e8], [400, 9e9], [900, 16e9]])).toBe("");
});
