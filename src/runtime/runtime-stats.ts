import type { Contention } from "../schedule/contention.ts";

/** Gauges are of this moment; counters only grow. */
export interface RuntimeStats {
  readonly waitingRequests: number;
  readonly runningRequests: number;
  readonly numPages: number;
  readonly usedPages: number;
  /** Positions in one page. */
  readonly pageTokens: number;
  readonly numSlots: number;
  readonly usedSlots: number;
  /** Device memory of adapters, in use and in all. */
  readonly adapterBytes: number;
  readonly adapterMaxBytes: number;
  /** Adapters staged in host memory, those on the device among them. */
  readonly hostCacheAdapters: number;
  readonly hostCacheBytes: number;
  readonly hostCacheMaxBytes: number;
  /** Who waits, how long, and how unevenly they were served. */
  readonly contention: Contention;
  readonly steps: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
  readonly adapterLoads: number;
  readonly adapterEvictions: number;
  readonly finished: Readonly<Record<string, number>>;
  /** Requests refused before they were queued, by error code. */
  readonly refused: Readonly<Record<string, number>>;
  /** Milliseconds spent in native code and in everything else, summed over steps. */
  readonly stepComputeMs: number;
  readonly stepHostMs: number;
}
