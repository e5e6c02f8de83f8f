/**
 * Every adapter that the runtime knows: names, and what each of them means now.
 *
 * A name that gets new content gets a new record with an id of its own. The earlier one is retired: requests
 * that hold its id end on what they began with.
 */
import { AdapterError, CapacityError, invariant, RequestError } from "../core/errors.ts";
import { asAdapterId, type AdapterId } from "../core/ids.ts";
import { didYouMean } from "../core/nearest.ts";
import { isAdapterName } from "../lora/adapter-paths.ts";
import type { AdapterContent } from "../schedule/schedule-table.ts";
import { AdapterRecord, type AdapterSource } from "./adapter-record.ts";

/** Most names in a message. */
const MAX_LISTED = 8;

export class AdapterRegistry {
  readonly #maxAdapters: number;
  readonly #byName = new Map<string, AdapterRecord>();
  readonly #byId = new Map<AdapterId, AdapterRecord>();
  /** Callers' numbers, each for one name. */
  readonly #byIntId = new Map<number, string>();
  readonly #refused = new Map<string, AdapterError>();
  #nextId = 1;

  /** @param maxAdapters most names known at once */
  constructor(maxAdapters: number) {
    this.#maxAdapters = maxAdapters;
  }

  /** Of every name, then the retired ones that still have requests. */
  *records(): Iterable<AdapterRecord> {
    yield* this.#byName.values();
    for (const record of this.#byId.values()) if (record.isRetired) yield record;
  }

  byName(name: string): AdapterRecord | undefined {
    return this.#byName.get(name);
  }

  byId(id: AdapterId): AdapterRecord | undefined {
    return this.#byId.get(id);
  }

  /** Of an id that has not been removed. @throws {AdapterError} `adapter_not_found` */
  get(id: AdapterId): AdapterRecord {
    const record = this.#byId.get(id);
    if (record !== undefined) return record;
    throw new AdapterError("adapter_not_found", "the adapter has been unloaded", { field: "lora_name" });
  }

  /** What the schedule asks of an adapter that has been read. */
  contentOf(id: AdapterId): AdapterContent {
    const { name, digest, invocation } = this.get(id);
    invariant(digest !== null, `adapter ${name} has been read`);
    return { digest, invocation };
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

  /**
   * Makes a name known; the same name and path again is no change.
   *
   * @throws {RequestError} `invalid_request` for a bad name, or one that stands for another path
   * @throws {CapacityError} `queue_full` when `maxAdapters` names are known
   */
  register(name: string, source: AdapterSource, created: number): AdapterRecord {
    checkAdapterName(name);
    const known = this.#byName.get(name);
    if (known !== undefined) {
      if (known.path === source.path) return known;
      throw new RequestError(
        "invalid_request",
        `adapter ${name} is known with another path; use another name`,
        { field: "lora_path" },
      );
    }
    const record = this.propose(name, source, created);
    this.commit(record);
    return record;
  }

  /**
   * A record with an id, which its name does not mean yet: `commit` or `remove` follows.
   *
   * @throws {CapacityError} `queue_full` when `maxAdapters` names are known and this is a further one
   */
  propose(name: string, source: AdapterSource, created: number): AdapterRecord {
    if (!this.#byName.has(name)) this.#checkRoom();
    const record = new AdapterRecord(asAdapterId(this.#nextId++), name, source, created);
    this.#byId.set(record.id, record);
    return record;
  }

  /** @returns the record that the name meant before, retired from here on */
  commit(record: AdapterRecord): AdapterRecord | null {
    if (!this.#byName.has(record.name)) this.#checkRoom();
    const earlier = this.#byName.get(record.name) ?? null;
    if (earlier !== null) record.succeed(earlier);
    this.#refused.delete(record.name);
    this.#byName.set(record.name, record);
    return earlier;
  }

  /** The name means nothing from here on. @throws what `find` throws */
  retire(name: string): AdapterRecord {
    const record = this.find(name);
    record.isRetired = true;
    this.#byName.delete(name);
    for (const [intId, holder] of this.#byIntId) if (holder === name) this.#byIntId.delete(intId);
    return record;
  }

  /** Forgets a record that no name means. */
  remove(record: AdapterRecord): void {
    this.#byId.delete(record.id);
  }

  /**
   * Ties a caller's number to an adapter.
   *
   * @throws {RequestError} `invalid_request` when the number already stands for another
   */
  claimIntId(intId: number, record: AdapterRecord): void {
    this.checkIntId(intId, record.name);
    this.#byIntId.set(intId, record.name);
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
    if (holder === undefined || holder === name) return;
    throw new RequestError(
      "invalid_request",
      `lora_int_id ${intId} stands for adapter ${holder} and cannot stand for ${name} as well`,
      { field: "lora_int_id" },
    );
  }

  #checkRoom(): void {
    if (this.#byName.size < this.#maxAdapters) return;
    throw new CapacityError(
      "queue_full",
      `${this.#byName.size} adapters are known and at most ${this.#maxAdapters} may be; unload one first`,
    );
  }

  #notFound(name: string): AdapterError {
    const names = [...this.#byName.keys()];
    const more = names.length > MAX_LISTED ? ` and ${names.length - MAX_LISTED} more` : "";
    const known = names.length === 0 ? "none is known" : `known are ${names.slice(0, MAX_LISTED).join(", ")}${more}`;
    const shown = JSON.stringify(name.slice(0, 100));
    return new AdapterError("adapter_not_found", `no adapter is named ${shown}${didYouMean(name, names)}; ${known}`, { field: "lora_name" });
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
