/**
 * The one door to a running Lorikeet. The HTTP server, the library and the bench harness are equal users of it.
 *
 * Every call is a message that could be sent to another process: plain records in, plain records or a
 * stream of them out.
 */
import type { Grammar, GrammarSpec } from "../core/grammar.ts";
import type { AdapterId, RequestId } from "../core/ids.ts";
import type { GenerationEvent, GenerationRequest } from "../core/request.ts";
import type { LoadedModel } from "../model/load-model.ts";
import type { Contention } from "../schedule/contention.ts";
import type { MemoryMap } from "./memory-map.ts";
import type { TransitionListener } from "./transitions.ts";

export type { MemoryMap } from "./memory-map.ts";
export type { Transition, TransitionListener } from "./transitions.ts";

export interface Runtime {
  readonly model: LoadedModel;
  readonly backend: { readonly name: string; readonly description: string };
  /** Most tokens of one sequence, prompt and output together. */
  readonly maxContext: number;

  /**
   * Queues one sequence.
   *
   * @throws {CapacityError} `queue_full` or `shutting_down`, before anything is kept
   * @throws {RequestError} `context_length_exceeded`, `invalid_request`
   */
  generate(request: GenerationRequest): Generation;

  /**
   * Compiles what outputs are to be held to, or finds it compiled.
   *
   * @throws {RequestError} `invalid_request` for what is no grammar, or where the backend cannot hold outputs to one
   */
  compileGrammar(spec: GrammarSpec): Promise<Grammar>;

  /**
   * Finds the adapter that a client named, registering one by path where that is allowed.
   *
   * @throws {AdapterError} `adapter_not_found`
   * @throws {RequestError} `forbidden_path` when the path is outside the configured roots
   */
  resolveAdapter(reference: AdapterReference): Promise<AdapterId>;

  /**
   * Reads and checks an adapter, then gives it its name. Other requests go on; where it fails nothing changes.
   *
   * @throws {AdapterError} `adapter_invalid`, `adapter_unsupported`, `adapter_too_large`
   * @throws {RequestError} `adapter_exists`, `forbidden_path`, `invalid_request`
   * @throws {CapacityError} `queue_full` for too many names, loads or pins; `shutting_down`
   */
  loadAdapter(adapter: AdapterToLoad): Promise<AdapterListing>;

  /**
   * Takes an adapter's name away at once. Requests under way end on it; then its memory is free.
   *
   * @returns what it was
   * @throws {AdapterError} `adapter_not_found`
   * @throws {RequestError} `invalid_request` when the number is another adapter's
   */
  unloadAdapter(adapter: AdapterToUnload): Promise<AdapterListing>;

  /** By name, each once; after them those that drain. */
  adapters(): readonly AdapterListing[];

  /** SHA-256 of an adapter's content, in hex; `null` until its files were read. */
  adapterDigest(adapter: AdapterId): string | null;

  stats(): RuntimeStats;

  /** Who holds which part of the memory now. */
  memory(): MemoryMap;

  /** Hears of every transition inside from here on. @returns what ends it */
  watch(listener: TransitionListener): () => void;

  /** Refuses new requests, lets running ones end within `timeoutMs`, ends the rest with `shutdown`, and frees the backend. */
  close(timeoutMs?: number): Promise<void>;
}

/** One sequence under way: an async iterable that ends after the event with `finish`. */
export interface Generation extends AsyncIterable<GenerationEvent> {
  readonly id: RequestId;
  /** Ends the sequence with `cancelled`; its pages and lease are free within one step. Idempotent. */
  cancel(): void;
}

export interface AdapterReference {
  readonly name: string;
  /** A caller's own number for the adapter; two contents under one number are a conflict. */
  readonly intId?: number;
  /** Directory of the adapter's files, or a `.nemo` file, for one that is not registered under `name` yet. */
  readonly path?: string;
  /** Format of what lies at `path`; left out for the server's setting. */
  readonly source?: "hf" | "nemo";
}

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
