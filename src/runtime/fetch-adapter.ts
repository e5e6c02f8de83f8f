/** Adapters that are elsewhere, brought to this machine. */
import { AdapterError, CapacityError, LorikeetError } from "../core/errors.ts";
import type { DownloadProgress } from "./adapter-listing.ts";
import type { AdapterRecord } from "./adapter-record.ts";

export interface FetchedAdapter {
  /** Of its directory or archive on this machine. */
  readonly path: string;
  /** Where from, and which version. */
  readonly origin: string | null;
}

/** Downloads what a source has of an adapter, until it is told to stop. @throws {LorikeetError} `source_refused`, `source_unavailable` */
export type FetchAdapter = (source: string, signal: AbortSignal, onProgress: (progress: DownloadProgress) => void) => Promise<FetchedAdapter>;

/** One download, for all adapters that wait for it. */
interface Flight {
  readonly arrival: Promise<FetchedAdapter>;
  readonly stopping: AbortController;
  readonly records: Set<AdapterRecord>;
}

/** Fetches adapters, one source once at a time, whatever the number of names that stand for it. */
export class AdapterFetches {
  readonly #fetch: FetchAdapter;
  readonly #flights = new Map<string, Flight>();

  constructor(fetch: FetchAdapter) {
    this.#fetch = fetch;
  }

  /**
   * @param signal says that nobody wants this adapter any more; the download ends where nobody else does
   * @throws {LorikeetError} `source_unavailable`, `adapter_invalid`: for clients, who are not told of the source; `sourceErrorOf` has it
   */
  async fetch(record: AdapterRecord, signal: AbortSignal): Promise<void> {
    const source = record.path;
    const flight = this.#flights.get(source) ?? this.#start(source);
    flight.records.add(record);
    const leave = (): void => {
      flight.records.delete(record);
      if (flight.records.size > 0) return;
      this.#flights.delete(source);
      flight.stopping.abort();
    };
    signal.addEventListener("abort", leave, { once: true });
    try {
      const { path, origin } = await flight.arrival;
      if (!signal.aborted) record.noteFetched(path, origin);
    } catch (thrown) {
      throw forClients(record.name, thrown);
    } finally {
      signal.removeEventListener("abort", leave);
      record.download = null;
    }
  }

  #start(source: string): Flight {
    const stopping = new AbortController();
    const records = new Set<AdapterRecord>();
    const onProgress = (download: DownloadProgress): void => {
      for (const record of records) record.download = download;
    };
    const arrival = this.#fetch(source, stopping.signal, onProgress).finally(() => {
      if (this.#flights.get(source) === flight) this.#flights.delete(source);
    });
    const flight: Flight = { arrival, stopping, records };
    this.#flights.set(source, flight);
    return flight;
  }
}

/** Names of buckets, repositories and hosts are as little for clients as paths are. */
function forClients(name: string, cause: unknown): LorikeetError {
  return cause instanceof CapacityError
    ? new CapacityError(cause.errorCode, `adapter ${name} cannot be downloaded now; try again later`, { cause })
    : new AdapterError("adapter_invalid", `adapter ${name} cannot be had from its source; the server's log says why`, { cause });
}

/** For whoever configured a source: what is behind a failure to fetch it; anything else as it is. */
export function sourceErrorOf(thrown: unknown): unknown {
  const isOfSource = thrown instanceof LorikeetError && thrown.cause instanceof LorikeetError && thrown.cause.errorCode.startsWith("source_");
  return isOfSource ? thrown.cause : thrown;
}
