/**
 * The one door to a running Lorikeet. The HTTP server, the library and the bench harness are equal users of it.
 *
 * Every call is a message that could be sent to another process: plain records in, plain records or a
 * stream of them out.
 */
import type { AdapterId, RequestId } from "../core/ids.ts";
import type { GenerationEvent, GenerationRequest } from "../core/request.ts";
import type { LoadedModel } from "../model/load-model.ts";

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
   * Finds the adapter that a client named, registering one by path where that is allowed.
   *
   * @throws {AdapterError} `adapter_not_found`
   * @throws {RequestError} `forbidden_path` when the path is outside the configured roots
   */
  resolveAdapter(reference: AdapterReference): Promise<AdapterId>;

  adapters(): readonly AdapterListing[];

  /** SHA-256 of an adapter's content, in hex; `null` until its files were read. */
  adapterDigest(adapter: AdapterId): string | null;

  stats(): RuntimeStats;

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

export type AdapterState = "registered" | "loading" | "host" | "device" | "failed";

export interface AdapterListing {
  readonly id: AdapterId;
  readonly name: string;
  readonly state: AdapterState;
  /** Known once the files were read. */
  readonly digest: string | null;
  readonly rank: number | null;
  readonly numBytes: number | null;
  readonly numRequests: number;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly numLoads: number;
  /** Message of the last failed load. */
  readonly lastError: string | null;
  /** Unix seconds of its registration. */
  readonly created: number;
}

/** Gauges are of this moment; counters only grow. */
export interface RuntimeStats {
  readonly waitingRequests: number;
  readonly runningRequests: number;
  readonly numPages: number;
  readonly usedPages: number;
  readonly numSlots: number;
  readonly usedSlots: number;
  readonly hostCacheBytes: number;
  readonly hostCacheMaxBytes: number;
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
