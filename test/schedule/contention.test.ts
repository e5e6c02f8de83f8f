import { expect, test } from "bun:test";
import { contentionOf } from "../../src/schedule/contention.ts";
import type { Lane, Tenant } from "../../src/schedule/lanes.ts";
import type { AdapterGroup } from "../../src/schedule/schedule-table.ts";

/** One lane of the adapter at that place, with its waiting requests by their time of submission. */
const lane = (adapter: number, servedRows: number, ...submitted: number[]) => ({ adapter, servedRows, waiting: submitted.map((submittedMs) => ({ submittedMs })) });

const tenant = (virtualRows: number, ...lanes: ReturnType<typeof lane>[]) => ({ virtualRows, lanes });

function tableOf(...tenants: ReturnType<typeof tenant>[]) {
  const byAdapter = Map.groupBy(tenants.flatMap(({ lanes }) => lanes), ({ adapter }) => adapter);
  const groups = [...byAdapter].map(([adapter, lanes]) => [adapter, { waiting: lanes.flatMap(({ waiting }) => waiting) } as unknown as AdapterGroup] as const);
  return {
    groups: new Map(groups as [never, AdapterGroup][]),
    tenants: new Map(tenants.map(({ virtualRows, lanes }, i) => [`t${i}`, { virtualRows, lanes: new Set(lanes as unknown as Lane[]) } as unknown as Tenant])),
  };
}

test.each([
  ["nobody waits", [tenant(107, lane(0, 100), lane(1, 7))], { numWaitingGroups: 0, longestWaitMs: 0, servedGapRows: 0, tenantGapRows: 0 }],
  ["one waits: there is nobody to compare with", [tenant(107, lane(0, 100, 40, 30), lane(1, 7))], { numWaitingGroups: 1, longestWaitMs: 70, servedGapRows: 0, tenantGapRows: 0 }],
  [
    "only those who wait are compared",
    [tenant(257, lane(0, 100, 90), lane(1, 7), lane(2, 60, 95), lane(3, 90, 20))],
    { numWaitingGroups: 3, longestWaitMs: 80, servedGapRows: 40, tenantGapRows: 0 },
  ],
  [
    "adapters are compared within a tenant, and tenants with each other",
    [tenant(900, lane(0, 500, 90), lane(1, 400, 80)), tenant(30, lane(0, 10, 70), lane(1, 20)), tenant(5, lane(0, 5))],
    { numWaitingGroups: 2, longestWaitMs: 30, servedGapRows: 100, tenantGapRows: 870 },
  ],
])("contention where %s", (_, tenants, expected) => {
  expect(contentionOf(tableOf(...tenants), 100)).toEqual(expected);
});
