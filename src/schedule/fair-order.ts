/**
 * Who starts next: by priority, then first come, first served within a lane; between the lanes of a tenant by
 * priority, then the least served one; between tenants the one that has had least for its weight. A priority is a
 * tenant's own affair: it takes nothing from others.
 *
 * A tenant that has aged, with nothing of it running, goes before all others, and of its own lanes those that
 * have aged go first. So many adapters give a tenant no larger share. While an aged one lacks pages nobody else
 * starts: the next that come free are its own.
 *
 * Two tenants that both have something to start drift apart by what sequences compute that were started before:
 * at most `maxRunning` sequences' rows, divided by the weight (`test/schedule/tenants.test.ts`).
 */
import type { Lane, Tenant } from "./lanes.ts";
import { isAged, waitsSince, type ScheduleTable } from "./schedule-table.ts";
import { priorityOf } from "./sequence.ts";

const canStart = (table: ScheduleTable, { group, waiting, skippedAt }: Lane): boolean =>
  waiting.length > 0 && group.lease === "held" && !group.isDraining && skippedAt !== table.numComposed;

/** Whether any request could start if there were room. */
export function hasStartable(table: ScheduleTable): boolean {
  for (const { lanes } of table.tenants.values()) {
    for (const lane of lanes) if (canStart(table, lane)) return true;
  }
  return false;
}

/** The lane whose head is to start next; `undefined` when none may. @complexity O(lanes) */
export function nextToStart(table: ScheduleTable): Lane | undefined {
  const { clearedFor } = table;
  if (clearedFor !== null && canStart(table, clearedFor)) return clearedFor;
  let best: Claim | undefined;
  for (const tenant of table.tenants.values()) {
    const claim = bestClaim(table, tenant);
    if (claim === undefined) continue;
    const { lane } = claim;
    const since = tenant.numRunning > 0 ? Infinity : claim.oldest;
    const ofTenant = { lane, since, served: tenant.virtualRows, priority: 0 };
    if (best === undefined || goesBefore(table, ofTenant, best)) best = ofTenant;
  }
  return best?.lane;
}

/** Whether nobody may take the pages that the lane's head waits for. */
export const holdsPages = (table: ScheduleTable, lane: Lane): boolean => lane === table.clearedFor || isAged(table, lane);

/** What lanes of one tenant, and then tenants, are compared by. */
interface Claim {
  readonly lane: Lane;
  /** Step since which it has gone without; `Infinity` while it is served. */
  readonly since: number;
  readonly priority: number;
  readonly served: number;
}

/** Of a tenant's lanes the one to go first, and since when the longest waiting of them has gone without. */
function bestClaim(table: ScheduleTable, { lanes }: Tenant): (Claim & { readonly oldest: number }) | undefined {
  let best: Claim | undefined;
  let oldest = Infinity;
  for (const lane of lanes) {
    if (!canStart(table, lane)) continue;
    const claim = { lane, since: waitsSince(lane), priority: priorityOf(lane.waiting[0]!), served: lane.servedRows };
    oldest = Math.min(oldest, claim.since);
    if (best === undefined || goesBefore(table, claim, best)) best = claim;
  }
  return best === undefined ? undefined : { ...best, oldest };
}

function goesBefore({ step, limits }: ScheduleTable, a: Claim, b: Claim): boolean {
  const aIsAged = step - a.since >= limits.agingSteps;
  if (aIsAged !== step - b.since >= limits.agingSteps) return aIsAged;
  if (!aIsAged && a.priority !== b.priority) return a.priority < b.priority;
  const difference = aIsAged ? a.since - b.since : a.served - b.served;
  return difference === 0 ? a.lane.waiting[0]!.arrival < b.lane.waiting[0]!.arrival : difference < 0;
}
