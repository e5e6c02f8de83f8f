/** Every adapter that the runtime knows by name: where its files are, and what became of it. */
import { AdapterError, CapacityError, RequestError, type LorikeetError } from "../core/errors.ts";
import { asAdapterId, type AdapterId } from "../core/ids.ts";
import { didYouMean } from "../core/nearest.ts";
import type { Usage } from "../core/request.ts";
import { isAdapterName } from "../lora/adapter-paths.ts";
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";

export interface AdapterRecord {
  readonly id: AdapterId;
  readonly name: string;
  /** Directory of its files, or a `.nemo` file. */
  readonly path: string;
  /** Format that whoever named the path asked for; `null` for the server's. */
  readonly source: "hf" | "nemo" | null;
  /** Unix seconds. */
  readonly created: number;
  isLoading: boolean;
  digest: string | null;
  rank: number | null;
  numBytes: number | null;
  numRequests: number;
  promptTokens: number;
  generatedTokens: number;
  numLoads: number;
  lastError: string | null;
}

/** Most names in a message. */
const MAX_LISTED = 8;

export class AdapterRegistry {
  readonly #maxAdapters: number;
  readonly #byName = new Map<string, AdapterRecord>();
  readonly #byId = new Map<AdapterId, AdapterRecord>();
  readonly #byIntId = new Map<number, AdapterRecord>();
  readonly #refused = new Map<string, AdapterError>();

  /** @param maxAdapters most names known at once */
  constructor(maxAdapters: number) {
    this.#maxAdapters = maxAdapters;
  }

  get records(): Iterable<AdapterRecord> {
    return this.#byName.values();
  }

  byName(name: string): AdapterRecord | undefined {
    return this.#byName.get(name);
  }

  /** @throws {AdapterError} `adapter_not_found`, or why an adapter of that name is not served */
  find(name: string): AdapterRecord {
    const record = this.#byName.get(name);
    if (record !== undefined) return record;
    throw this.#refused.get(name) ?? this.#notFound(name);
  }

  /** Keeps why an adapter that somebody may ask for is not served. */
  refuse(name: string, error: AdapterError): void {
    const message = `adapter ${name} cannot be served: ${error.message}`;
    this.#refused.set(name, new AdapterError(error.errorCode, message, { field: "lora_name", cause: error }));
  }

  byId(id: AdapterId): AdapterRecord | undefined {
    return this.#byId.get(id);
  }

  /**
   * Makes a name known; the same name and path again is no change.
   *
   * @throws {RequestError} `invalid_request` for a bad name, or one that stands for another path
   * @throws {CapacityError} `queue_full` when `maxAdapters` names are known
   */
  register(name: string, path: string, created: number, source: AdapterRecord["source"] = null): AdapterRecord {
    checkAdapterName(name);
    const known = this.#byName.get(name);
    if (known !== undefined) {
      if (known.path === path) return known;
      throw new RequestError(
        "invalid_request",
        `adapter ${name} is known with another path; use another name`,
        { field: "lora_path" },
      );
    }
    if (this.#byName.size >= this.#maxAdapters) {
      throw new CapacityError(
        "queue_full",
        `${this.#byName.size} adapters are known and at most ${this.#maxAdapters} may be; ` +
          "restart the server with fewer or a higher limit",
      );
    }
    const record: AdapterRecord = {
      id: asAdapterId(this.#byId.size + 1),
      name,
      path,
      source,
      created,
      isLoading: false,
      digest: null,
      rank: null,
      numBytes: null,
      numRequests: 0,
      promptTokens: 0,
      generatedTokens: 0,
      numLoads: 0,
      lastError: null,
    };
    this.#byName.set(name, record);
    this.#byId.set(record.id, record);
    return record;
  }

  /**
   * Ties a caller's number to an adapter.
   *
   * @throws {RequestError} `invalid_request` when the number already stands for another
   */
  claimIntId(intId: number, record: AdapterRecord): void {
    this.checkIntId(intId, record.name);
    this.#byIntId.set(intId, record);
  }

  checkIntId(intId: number, name: string): void {
    if (!Number.isSafeInteger(intId) || intId < 0) {
      throw new RequestError(
        "invalid_request",
        `lora_int_id must be a whole number of at least 0, got ${intId}`,
        { field: "lora_int_id" },
      );
    }
    const holder = this.#byIntId.get(intId);
    if (holder === undefined || holder.name === name) return;
    throw new RequestError(
      "invalid_request",
      `lora_int_id ${intId} stands for adapter ${holder.name} and cannot stand for ${name} as well`,
      { field: "lora_int_id" },
    );
  }

  #notFound(name: string): AdapterError {
    const names = [...this.#byName.keys()];
    const more = names.length > MAX_LISTED ? ` and ${names.length - MAX_LISTED} more` : "";
    const known = names.length === 0 ? "none is known" : `known are ${names.slice(0, MAX_LISTED).join(", ")}${more}`;
    const shown = JSON.stringify(name.slice(0, 100));
    return new AdapterError("adapter_not_found", `no adapter is named ${shown}${didYouMean(name, names)}; ${known}`, { field: "lora_name" });
  }

  noteSubmitted(id: AdapterId): void {
    const record = this.#byId.get(id);
    if (record !== undefined) record.numRequests++;
  }

  noteReading(id: AdapterId): void {
    const record = this.#byId.get(id);
    if (record !== undefined) record.isLoading = true;
  }

  noteLoaded(id: AdapterId, { image, report }: StagedAdapter): void {
    const record = this.#byId.get(id);
    if (record === undefined) return;
    record.isLoading = false;
    record.digest = image.digest;
    record.rank = report.maxRank;
    record.numBytes = report.numBytes;
    record.lastError = null;
    record.numLoads++;
  }

  noteFailed(id: AdapterId, error: LorikeetError): void {
    const record = this.#byId.get(id);
    if (record === undefined) return;
    record.isLoading = false;
    record.lastError = error.message;
  }

  noteEnded(id: AdapterId, usage: Usage): void {
    const record = this.#byId.get(id);
    if (record === undefined) return;
    record.promptTokens += usage.promptTokens;
    record.generatedTokens += usage.completionTokens;
  }
}

/** @throws {RequestError} `invalid_request` */
export function checkAdapterName(name: string): void {
  if (isAdapterName(name)) return;
  throw new RequestError(
    "invalid_request",
    `adapter name ${JSON.stringify(name.slice(0, 100))} must be letters, digits, "_", "." or "-", ` +
      'with at most one "/"',
    { field: "lora_name" },
  );
}
