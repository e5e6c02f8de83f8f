/** The data that a running Lorikeet consists of, and what listings and statistics show of it. */
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";
import type { Backend } from "../backend/backend.ts";
import type { Clock } from "../core/clock.ts";
import { ExtentPool } from "../core/extent-pool.ts";
import { Engine } from "../engine/engine.ts";
import type { LorikeetError } from "../core/errors.ts";
import type { AdapterReport } from "../lora/adapter-report.ts";
import { HostLru } from "../lora/host-lru.ts";
import { SlotPool } from "../lora/slot-pool.ts";
import { contentionOf } from "../schedule/contention.ts";
import { createQuotas, type Quotas } from "../schedule/quotas.ts";
import { createScheduleTable, type ScheduleTable } from "../schedule/schedule-table.ts";
import type { DeviceBudgets } from "./device-budgets.ts";
import type { AdapterRecord } from "./adapter-record.ts";
import { AdapterRegistry } from "./adapter-registry.ts";
import type { RuntimeOptions } from "./runtime-options.ts";
import type { AdapterListing, AdapterState, AdapterTier, RuntimeStats } from "./runtime.ts";

export interface RuntimeParts {
  readonly table: ScheduleTable;
  readonly engine: Engine;
  readonly pool: SlotPool;
  readonly lru: HostLru<StagedAdapter>;
  readonly registry: AdapterRegistry;
  readonly quotas: Quotas;
  readonly counters: RuntimeCounters;
}

/** @param limits those of the runtime, as the backend allows them */
export const createParts = (
  { info, run }: Pick<Backend, "info" | "run">,
  limits: RuntimeOptions & DeviceBudgets,
  clock: Clock,
): RuntimeParts => {
  const registry = new AdapterRegistry(limits.maxAdapters);
  const { numPages, pageTokens, extentBytes, numSlots } = info;
  const extents = new ExtentPool(info.numExtents);
  return {
    table: createScheduleTable(
      {
        ...limits,
        maxRows: info.maxRows,
        maxSequences: info.maxSequences,
        sharesPrefixes: limits.sharesPrefixes,
        weights: new Map(limits.tenants.map(({ name, weight }) => [name, weight])),
      },
      { extents, pageTokens, numPages },
      (adapter) => registry.contentOf(adapter),
    ),
    engine: new Engine({ run }, clock),
    pool: new SlotPool({ numSlots, maxBytes: limits.adapterBytes, extents, extentBytes }),
    lru: new HostLru(limits.hostCacheBytes, limits.hostCacheAdapters),
    registry,
    quotas: createQuotas(new Map(limits.tenants.map(({ name, quota }) => [name, quota])), clock.nowMs()),
    counters: { adapterLoads: 0, adapterEvictions: 0, stepMs: 0, refused: {} },
  };
};

/** Only grow. */
export interface RuntimeCounters {
  adapterLoads: number;
  adapterEvictions: number;
  /** Milliseconds from composing a step to settling it. */
  stepMs: number;
  readonly refused: Record<string, number>;
}

/** What became of one load. */
export type AdapterLoad =
  | {
      readonly name: string;
      readonly digest: string;
      /** Of what was fetched: where from, and which version. */
      readonly origin: string | null;
      readonly report: AdapterReport;
      readonly deviceBytes: number;
      readonly error: null;
    }
  | { readonly name: string; readonly error: LorikeetError };

export { mapMemory } from "./memory-map.ts";

export const listAdapters = (parts: RuntimeParts): readonly AdapterListing[] =>
  Array.from(parts.registry.records(), (record) => listingOf(parts, record));

export function listingOf({ table, pool, lru }: RuntimeParts, record: AdapterRecord): AdapterListing {
  const { source: _source, isElsewhere, isLoading: _isLoading, isRetired: _isRetired, isTrusted: _isTrusted, ...rest } = record;
  const tier = pool.slotOf(record.id) !== null ? "device" : lru.has(record.id) ? "host" : isElsewhere ? "source" : "disk";
  const group = table.groups.get(record.id);
  return { ...rest, tier, state: stateOf(tier, record), numRunning: group?.numRunning ?? 0, numWaiting: group?.waiting.length ?? 0 };
}

function stateOf(tier: AdapterTier, { isRetired, isLoading, lastError, shutOut }: AdapterRecord): AdapterState {
  if (isRetired) return "draining";
  if (shutOut !== null) return "failed";
  if (tier === "device" || tier === "host") return tier;
  if (isLoading) return tier === "source" ? "downloading" : "loading";
  return lastError === null ? "registered" : "failed";
}

export function collectStats({ table, engine, pool, lru, counters }: RuntimeParts, nowMs: number): RuntimeStats {
  const { steps, promptTokens, generatedTokens, computeMs } = engine.counters;
  return {
    waitingRequests: table.numWaiting,
    runningRequests: table.sequences.size - table.numWaiting,
    numPages: table.pool.numPages,
    usedPages: table.pool.numHeld,
    pageTokens: table.pool.pageTokens,
    numSlots: pool.numSlots,
    usedSlots: pool.numUsed,
    adapterBytes: pool.usedBytes,
    adapterMaxBytes: pool.maxBytes,
    hostCacheAdapters: lru.size,
    hostCacheBytes: lru.usedBytes,
    hostCacheMaxBytes: lru.maxBytes,
    contention: contentionOf(table, nowMs),
    steps,
    promptTokens,
    generatedTokens,
    preemptions: table.counters.preemptions,
    idlePages: table.pool.numIdle,
    prefixQueries: table.counters.prefixQueries,
    prefixHits: table.counters.prefixHits,
    adapterLoads: counters.adapterLoads,
    adapterEvictions: counters.adapterEvictions,
    finished: { ...table.counters.finished },
    refused: { ...counters.refused },
    stepComputeMs: computeMs,
    stepHostMs: Math.max(0, counters.stepMs - computeMs),
  };
}
