/** What a runtime is told of adapters, and what it tells of them. */
import type { AdapterId } from "../core/ids.ts";

/** An adapter to read now, under a name that it has from then on. */
export interface AdapterToLoad {
  readonly name: string;
  /** Directory of the adapter's files, or a `.nemo` file, under a configured root. */
  readonly path: string;
  readonly intId?: number;
  readonly source?: "hf" | "nemo";
  /** Keeps it in host memory and, from its first use on, on the device; left out for no. */
  readonly pin?: boolean;
  /** Takes a name that is in use: requests under way end on what they began with. Left out for no. */
  readonly replace?: boolean;
}

export interface AdapterToUnload {
  readonly name: string;
  /** Must be the adapter's number, where it is given. */
  readonly intId?: number;
}

/** `draining`: its name means something else by now, or nothing, and its last requests are under way. */
export type AdapterState = "registered" | "loading" | "host" | "device" | "failed" | "draining";

/** The fastest place that holds it. */
export type AdapterTier = "disk" | "host" | "device";

export interface AdapterListing {
  readonly id: AdapterId;
  readonly name: string;
  /** Where it is read from: for whoever may configure the server, not for its clients. */
  readonly path: string;
  readonly state: AdapterState;
  readonly tier: AdapterTier;
  readonly isPinned: boolean;
  /** Known once the files were read. */
  readonly digest: string | null;
  readonly rank: number | null;
  readonly numModules: number | null;
  readonly numBytes: number | null;
  /** Sequences that have not ended, and all so far. */
  readonly numLive: number;
  readonly numRequests: number;
  /** Of its requests, those that take part in steps now, and those that wait to. */
  readonly numRunning: number;
  readonly numWaiting: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly numLoads: number;
  /** Message of the last failed load. */
  readonly lastError: string | null;
  /** Unix seconds of its registration, and of its latest request. */
  readonly created: number;
  readonly lastUsed: number | null;
}
