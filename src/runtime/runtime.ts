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
import type { AdapterListing, AdapterToLoad, AdapterToUnload } from "./adapter-listing.ts";
import type { MemoryMap } from "./memory-map.ts";
import type { RuntimeStats } from "./runtime-stats.ts";
import type { TransitionListener } from "./transitions.ts";

export type { AdapterListing, AdapterState, AdapterTier, AdapterToLoad, AdapterToUnload } from "./adapter-listing.ts";
export type { MemoryMap } from "./memory-map.ts";
export type { RuntimeStats } from "./runtime-stats.ts";
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
   * @throws {AdapterError} `adapter_invalid` for an adapter whose last requests gave no finite numbers
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
   * @throws {AdapterError} `adapter_not_found`; `adapter_invalid` for one whose last requests gave no finite numbers
   * @param namedBy whose words the path is in; `client` when left out
   * @throws {RequestError} `forbidden_path` when the path is outside the configured roots
   */
  resolveAdapter(reference: AdapterReference, namedBy?: NamedBy): Promise<AdapterId>;

  /**
   * Reads and checks an adapter, then gives it its name. Other requests go on; where it fails nothing changes.
   *
   * @throws {AdapterError} `adapter_invalid`, `adapter_unsupported`, `adapter_too_large`
   * @throws {RequestError} `adapter_exists`, `forbidden_path`, `invalid_request`
   * @throws {ConfigError} `source_refused`; {CapacityError} `source_unavailable`
   * @throws {CapacityError} `queue_full` for too many names, loads or pins; `shutting_down`
   */
  loadAdapter(adapter: AdapterToLoad, namedBy?: NamedBy): Promise<AdapterListing>;

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
  /** Ends the sequence with `cancelled`; its pages and lease are free once no step under way names it. Idempotent. */
  cancel(): void;
}

/**
 * A client may name paths under the configured roots alone. The program that opened the runtime is bound by them where
 * there are any, and may name any path otherwise, a relative one from its working directory.
 */
export type NamedBy = "program" | "client";

export interface AdapterReference {
  readonly name: string;
  /** A caller's own number for the adapter; two contents under one number are a conflict. */
  readonly intId?: number;
  /** Directory of the adapter's files, or a `.nemo` file, for one that is not registered under `name` yet. */
  readonly path?: string;
  /** Format of what lies at `path`; left out for the server's setting. */
  readonly source?: "hf" | "nemo";
}
