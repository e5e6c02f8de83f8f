import type { Contention } from "../schedule/contention.ts";

/** What a runtime does and has done. Gauges are of this moment; counters only grow. */
export interface RuntimeStats {
  /** Sequences that wait to take part in steps. */
  readonly waitingRequests: number;
  /** Sequences that take part in steps. */
  readonly runningRequests: number;
  /** KV pages in all. */
  readonly numPages: number;
  /** KV pages that sequences hold. */
  readonly usedPages: number;
  /** Pages that nobody uses now and that hold beginnings of sequences, for those to come. */
  readonly idlePages: number;
  /** Positions in one page. */
  readonly pageTokens: number;
  /** Adapters that the device has places for. */
  readonly numSlots: number;
  /** Adapters on the device. */
  readonly usedSlots: number;
  /** Device memory that adapters take, in bytes. */
  readonly adapterBytes: number;
  /** Device memory for adapters in all, in bytes. */
  readonly adapterMaxBytes: number;
  /** Adapters staged in host memory, those on the device among them. */
  readonly hostCacheAdapters: number;
  /** What they take, in bytes. */
  readonly hostCacheBytes: number;
  /** Most that they may take, in bytes. */
  readonly hostCacheMaxBytes: number;
  /** Who waits, how long, and how unevenly they were served. */
  readonly contention: Contention;
  /** Steps so far. */
  readonly steps: number;
  /** Rows of prompts computed so far. */
  readonly promptTokens: number;
  /** Tokens of outputs so far. */
  readonly generatedTokens: number;
  /** How often a sequence had to give its pages back, to be computed again. */
  readonly preemptions: number;
  /** Tokens of sequences that looked for what others had computed. */
  readonly prefixQueries: number;
  /** Those of them that were found. */
  readonly prefixHits: number;
  /** How often an adapter's files were read. */
  readonly adapterLoads: number;
  /** How often an adapter had to leave the device for another. */
  readonly adapterEvictions: number;
  /** Sequences that have ended, by finish reason. */
  readonly finished: Readonly<Record<string, number>>;
  /** Requests refused before they were queued, by error code. */
  readonly refused: Readonly<Record<string, number>>;
  /** Milliseconds spent in native code, summed over steps. */
  readonly stepComputeMs: number;
  /** Milliseconds spent in everything else between a step's start and its end, summed over steps. */
  readonly stepHostMs: number;
}
