/** Who holds which part of the memory now. */
import type { Backend } from "../backend/backend.ts";
import type { AdapterId, PageId } from "../core/ids.ts";
import { type PageCells, pageCells } from "./page-cells.ts";
import type { RuntimeParts } from "./runtime-parts.ts";

export interface MemoryMap {
  /** The base model. */
  readonly weightBytes: number;
  readonly kv: {
    readonly numBytes: number;
    readonly numPages: number;
    /** Positions in one page. */
    readonly pageTokens: number;
    /** Pages in nobody's use that hold beginnings of sequences for those to come, until others need them. */
    readonly numIdle: number;
    /** Pages held by sequences, by adapter, each once; `null` for the base model. */
    readonly held: readonly { readonly adapter: string | null; readonly numPages: number }[];
    /** Where in the pool they are; a holder is an index into `held`, the one after the last stands for idle pages. */
    readonly cells: PageCells;
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
  /** Where it begins in its tier; `null` where it has no fixed place, or the backend does not tell. */
  readonly offsetBytes: number | null;
  /** Whether requests keep it there now; on the host, whether it is on the device as well. */
  readonly isUsed: boolean;
}

export function mapMemory({ table, pool, lru, registry }: RuntimeParts, backend: Pick<Backend, "info" | "offsetBytes">): MemoryMap {
  const { info } = backend;
  const nameOf = (adapterId: AdapterId): string => registry.byId(adapterId)?.name ?? `#${adapterId}`;
  const pages = new Map<AdapterId | null, PageId[]>();
  const counted = new Set<PageId>();
  for (const { adapter, pages: held } of table.sequences.values()) {
    // Several may share a page.
    const own = held.filter((page) => !counted.has(page));
    for (const page of own) counted.add(page);
    if (own.length > 0) pages.getOrInsertComputed(adapter, () => []).push(...own);
  }
  return {
    weightBytes: info.weightBytes,
    kv: {
      numBytes: info.kvBytes,
      numPages: table.pool.numPages,
      pageTokens: table.pool.pageTokens,
      numIdle: table.pool.numIdle,
      held: Array.from(pages, ([adapter, { length: numPages }]) => ({ adapter: adapter === null ? null : nameOf(adapter), numPages })),
      cells: pageCells(table.pool.numPages, [...pages.values(), table.pool.idlePages()]),
    },
    device: {
      maxBytes: pool.maxBytes,
      held: pool.seated().map(({ adapterId, slot, numBytes, isLeased }) => ({
        adapter: nameOf(adapterId),
        numBytes,
        offsetBytes: backend.offsetBytes?.(slot) ?? null,
        isUsed: isLeased,
      })),
    },
    host: {
      maxBytes: lru.maxBytes,
      held: lru.sizes().map(({ adapterId, numBytes }) => ({
        adapter: nameOf(adapterId),
        numBytes,
        offsetBytes: null,
        isUsed: pool.slotOf(adapterId) !== null,
      })),
    },
  };
}
