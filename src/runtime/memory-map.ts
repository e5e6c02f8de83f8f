/** Who holds which part of the memory now. */
import type { BackendInfo } from "../backend/backend.ts";
import type { AdapterId, PageId } from "../core/ids.ts";
import { type PoolCells, poolCells } from "./pool-cells.ts";
import type { RuntimeParts } from "./runtime-parts.ts";

export interface MemoryMap {
  /** The base model. */
  readonly weightBytes: number;
  /** What pages and adapters share. */
  readonly pool: {
    readonly numBytes: number;
    /** Each as large as a page. */
    readonly numExtents: number;
    /** Who is where: a holder is an index into `kv.held`, the one after the last stands for idle pages, and those behind it for `device.held`. */
    readonly cells: PoolCells;
  };
  readonly kv: {
    /** Most pages at once. */
    readonly numPages: number;
    /** Positions in one page. */
    readonly pageTokens: number;
    /** Pages in nobody's use that hold beginnings of sequences for those to come, until others need them. */
    readonly numIdle: number;
    /** Pages held by sequences, by adapter, each once; `null` for the base model. */
    readonly held: readonly { readonly adapter: string | null; readonly numPages: number }[];
  };
  readonly device: TierMap;
  readonly host: TierMap;
}

export interface TierMap {
  readonly maxBytes: number;
  /** The longest unused first. */
  readonly held: readonly Extent[];
}

export interface Extent {
  readonly adapter: string;
  readonly numBytes: number;
  /** Whether requests keep it there now; on the host, whether it is on the device as well. */
  readonly isUsed: boolean;
}

export function mapMemory({ table, pool, lru, registry }: RuntimeParts, info: BackendInfo): MemoryMap {
  const { numExtents, extentBytes } = info;
  const nameOf = (adapterId: AdapterId): string => registry.byId(adapterId)?.name ?? `#${adapterId}`;
  const pages = new Map<AdapterId | null, PageId[]>();
  const counted = new Set<PageId>();
  for (const { adapter, pages: held } of table.sequences.values()) {
    // Several may share a page.
    const own = held.filter((page) => !counted.has(page));
    for (const page of own) counted.add(page);
    if (own.length > 0) pages.getOrInsertComputed(adapter, () => []).push(...own);
  }
  const seated = pool.seated();
  const runs = seated.map(({ extent, numBytes }) => Array.from({ length: numBytes / extentBytes }, (_, i) => extent + i));
  return {
    weightBytes: info.weightBytes,
    pool: {
      numBytes: numExtents * extentBytes,
      numExtents,
      cells: poolCells(numExtents, [...pages.values(), table.pool.idlePages(), ...runs]),
    },
    kv: {
      numPages: table.pool.numPages,
      pageTokens: table.pool.pageTokens,
      numIdle: table.pool.numIdle,
      held: Array.from(pages, ([adapter, { length: numPages }]) => ({ adapter: adapter === null ? null : nameOf(adapter), numPages })),
    },
    device: {
      maxBytes: pool.maxBytes,
      held: seated.map(({ adapterId, numBytes, isLeased }) => ({ adapter: nameOf(adapterId), numBytes, isUsed: isLeased })),
    },
    host: {
      maxBytes: lru.maxBytes,
      held: lru.sizes().map(({ adapterId, numBytes }) => ({
        adapter: nameOf(adapterId),
        numBytes,
        isUsed: pool.slotOf(adapterId) !== null,
      })),
    },
  };
}
