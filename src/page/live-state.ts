/** What the page is told twice a second: the answer of `GET /v1/live`. Counters only grow; the page makes rates of them. */

export interface LiveState {
  /** Unix milliseconds. */
  readonly time: number;
  readonly server: {
    readonly version: string;
    readonly model: string;
    readonly backend: string;
    /** Most tokens of a sequence. */
    readonly maxContext: number;
    /** Whether the model has a chat template. */
    readonly hasChat: boolean;
    /** Whether there is an admin key, so that adapters can be changed by request. */
    readonly hasAdmin: boolean;
  };
  readonly requests: {
    readonly running: number;
    readonly waiting: number;
    readonly longestWaitMs: number;
    readonly ended: number;
    readonly refused: number;
  };
  readonly tokens: { readonly prompt: number; readonly generated: number };
  readonly steps: number;
  /** Of the last ten seconds, in milliseconds; `null` where there were none. */
  readonly firstToken: Latency | null;
  readonly nextToken: Latency | null;
  readonly memory: MemoryState;
  /** The most used, those in memory first; at most `MAX_LIVE_ADAPTERS`. */
  readonly adapters: readonly LiveAdapter[];
  readonly numAdapters: number;
}

export const MAX_LIVE_ADAPTERS = 200;

export interface Latency {
  readonly p50: number;
  readonly p95: number;
}

export interface MemoryState {
  readonly weightBytes: number;
  /** What KV pages and adapters share, in extents of one page each. */
  readonly pool: {
    readonly numBytes: number;
    readonly numExtents: number;
    /**
     * In cells of some extents each: who holds most of each, as an index into `kv.held`, the one after the last for idle pages, those behind it into
     * `device.held`; `null` where all are free.
     */
    readonly cells: { readonly extentsPerCell: number; readonly holders: readonly (number | null)[] };
  };
  readonly kv: {
    /** Most pages at once. */
    readonly numPages: number;
    readonly pageTokens: number;
    /** Pages in nobody's use that hold beginnings of sequences for those to come. */
    readonly numIdle: number;
    /** Pages held now, by adapter; `null` for the base model. */
    readonly held: readonly { readonly adapter: string | null; readonly numPages: number }[];
  };
  readonly device: Tier;
  readonly host: Tier;
}

export interface Tier {
  readonly maxBytes: number;
  readonly held: readonly Extent[];
}

/** One adapter in a tier. */
export interface Extent {
  readonly adapter: string;
  readonly numBytes: number;
  /** Whether requests keep it there now; on the host, whether it is on the device as well. */
  readonly isUsed: boolean;
}

export interface LiveAdapter {
  readonly name: string;
  readonly state: string;
  readonly isPinned: boolean;
  readonly rank: number | null;
  readonly numBytes: number | null;
  readonly running: number;
  readonly waiting: number;
  readonly requests: number;
  readonly generatedTokens: number;
  readonly loads: number;
  readonly lastError: string | null;
}
