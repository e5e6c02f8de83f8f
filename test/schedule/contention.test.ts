import { expect, test } from "bun:test";
import { contentionOf } from "../../src/schedule/contention.ts";
import type { AdapterGroup } from "../../src/schedule/schedule-table.ts";

const group = (servedRows: number, ...submitted: number[]) =>
  ({ servedRows, waiting: submitted.map((submittedMs) => ({ submittedMs })) }) as unknown as AdapterGroup;

const tableOf = (...groups: AdapterGroup[]) => ({ groups: new Map(groups.map((each, i) => [i as never, each])) });

test.each([
  ["nobody waits", [group(100), group(7)], { numWaitingGroups: 0, longestWaitMs: 0, servedGapRows: 0 }],
  ["one waits: there is nobody to compare with", [group(100, 40, 30), group(7)], { numWaitingGroups: 1, longestWaitMs: 70, servedGapRows: 0 }],
  ["only those who wait are compared", [group(100, 90), group(7), group(60, 95), group(90, 20)], { numWaitingGroups: 3, longestWaitMs: 80, servedGapRows: 40 }],
])("contention where %s", (_, groups, expected) => {
  expect(contentionOf(tableOf(...groups), 100)).toEqual(expected);
});
