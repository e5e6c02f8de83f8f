/** What a runtime is told of adapters, and what it tells of them. */
import type { AdapterId } from "../core/ids.ts";

/** An adapter to read now, under a name that it has from then on. */
export interface AdapterToLoad {
  /** Letters, digits, `_`, `.` and `-`, with at most one `/`. */
  readonly name: string;
  /**
   * Directory of the adapter's files, or a `.nemo` file, under a configured root; in a program that configured none anywhere, a relative
   * path from its working directory. Or a source that is allowed, which is fetched.
   */
  readonly path: string;
  /** A caller's own number for it, from 0 up; made here when left out. */
  readonly intId?: number;
  /** Format of its files; left out for the configured one. */
  readonly source?: "hf" | "nemo";
  /** Keeps it in host memory and, from its first use on, on the device; left out for no. */
  readonly pin?: boolean;
  /** Takes a name that is in use: requests under way end on what they began with. Left out for no. */
  readonly replace?: boolean;
}

/** An adapter whose name is to mean nothing any more. */
export interface AdapterToUnload {
  /** As it was registered. */
  readonly name: string;
  /** Must be the adapter's number, where it is given. */
  readonly intId?: number;
}

/** `failed`: its last load failed, or its last requests gave no finite numbers; `draining`: its name means something else by now, or nothing, and its last requests are under way. */
export type AdapterState = "registered" | "downloading" | "loading" | "host" | "device" | "failed" | "draining";

/** The fastest place that holds it; `source` where it is not on this machine yet. */
export type AdapterTier = "source" | "disk" | "host" | "device";

/** How far a download is. */
export interface DownloadProgress {
  /** Bytes that are here. */
  readonly numBytes: number;
  /** Bytes of all files that were begun; `null` where a source does not say. */
  readonly totalBytes: number | null;
}

/** One adapter as it is now. */
export interface AdapterListing {
  /** Of this content under this name: new content gets another. */
  readonly id: AdapterId;
  /** As requests name it; of one that drains, as they named it. */
  readonly name: string;
  /** Where it is read from, or fetched from first: for whoever may configure the server, not for its clients. */
  readonly path: string;
  /** Of one that was fetched, its source and version; as little for clients. */
  readonly origin: string | null;
  /** While it is being fetched. */
  readonly download: DownloadProgress | null;
  /** What becomes of a request for it. */
  readonly state: AdapterState;
  /** Where it is, for how soon a request for it can start. */
  readonly tier: AdapterTier;
  /** Whether it keeps its place in host memory and, once used, on the device. */
  readonly isPinned: boolean;
  /** SHA-256 of its content, in hex; known once the files were read, as are the next four. */
  readonly digest: string | null;
  /** Largest rank of its modules. */
  readonly rank: number | null;
  /** Matrices of the model that it changes, over all layers. */
  readonly numModules: number | null;
  /** Token ids from whose last occurrence in a prompt on it acts; `null` where it always does, or has not been read. */
  readonly invocation: readonly number[] | null;
  /** Bytes that it takes on the device. */
  readonly numBytes: number | null;
  /** Sequences that have not ended. */
  readonly numLive: number;
  /** Sequences so far. */
  readonly numRequests: number;
  /** Of its sequences, those that take part in steps now. */
  readonly numRunning: number;
  /** Of its sequences, those that wait to. */
  readonly numWaiting: number;
  /** Tokens of its prompts so far. */
  readonly promptTokens: number;
  /** Tokens of its outputs so far. */
  readonly generatedTokens: number;
  /** How often its files were read. */
  readonly numLoads: number;
  /** Message of the last load, where it failed. */
  readonly lastError: string | null;
  /** Unix seconds of its registration. */
  readonly created: number;
  /** Unix seconds of its latest request; `null` before the first. */
  readonly lastUsed: number | null;
}
