/**
 * Loads, replaces, pins and unloads adapters while requests run.
 *
 * An adapter is read before its name means it, so a bad file changes nothing and a replacement has no moment
 * without an answer. What a name meant before goes when its last request has ended.
 */
import { resolve } from "node:path";
import type { ActorSystem, SystemFact } from "../actors/system.ts";
import type { Clock } from "../core/clock.ts";
import { AdapterError, CapacityError, RequestError, type LorikeetError } from "../core/errors.ts";
import type { AdapterId } from "../core/ids.ts";
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";
import { resolveUnderRoots } from "../lora/adapter-paths.ts";
import type { HostLru } from "../lora/host-lru.ts";
import type { SlotPool } from "../lora/slot-pool.ts";
import type { AdapterRecord, AdapterSource } from "./adapter-record.ts";
import { type AdapterRegistry, checkAdapterName } from "./adapter-registry.ts";
import { sourceErrorOf } from "./fetch-adapter.ts";
import type { AdapterLoad } from "./runtime-parts.ts";
import type { AdapterReference, AdapterToLoad, AdapterToUnload, NamedBy } from "./runtime.ts";

export interface AdapterControlInput {
  readonly registry: AdapterRegistry;
  readonly lru: HostLru<StagedAdapter>;
  readonly pool: SlotPool;
  readonly system: Pick<ActorSystem, "load" | "pin" | "forget">;
  readonly adapterRoots: readonly string[];
  /** A source that requests of the admin key may name, as it is fetched by; `null` for anything else. */
  readonly sourceOf: (text: string) => string | null;
  readonly onLoad: (load: AdapterLoad) => void;
  readonly clock: Clock;
  readonly yieldTurn: () => Promise<void>;
}

/** Loads under way at once; each holds its files in memory. */
const MAX_PENDING = 32;

export class AdapterControl {
  readonly #input: AdapterControlInput;
  readonly #pending = new Map<AdapterId, PromiseWithResolvers<StagedAdapter>>();
  #ending: LorikeetError | null = null;

  constructor(input: AdapterControlInput) {
    this.#input = input;
  }

  /** @throws what `Runtime.loadAdapter` throws */
  async load({ name, path, intId, source, pin = false, replace = false }: AdapterToLoad, namedBy: NamedBy): Promise<AdapterRecord> {
    const { registry, system, clock } = this.#input;
    this.#checkOpen();
    checkAdapterName(name);
    if (intId !== undefined) registry.checkIntId(intId, name);
    this.#checkFree(name, replace);
    if (pin) this.#checkPins(name);
    if (this.#pending.size >= MAX_PENDING) {
      throw new CapacityError("queue_full", `${MAX_PENDING} adapters are being loaded, which is the most at once; try again later`);
    }
    const place = await this.#placeToLoad(name, path, namedBy);
    // Nobody would end what starts only now.
    this.#checkOpen();
    const record = registry.propose(name, { ...place, source: source ?? null }, clock.unixSeconds());
    const reading = Promise.withResolvers<StagedAdapter>();
    this.#pending.set(record.id, reading);
    try {
      system.load(record.id);
      const staged = await reading.promise;
      this.#checkFree(name, replace);
      if (pin) {
        // Others may have been pinned while this one was read.
        this.#checkPins(name);
        this.#checkPinnedBytes(record, staged);
      }
      if (intId !== undefined) registry.claimIntId(intId, record);
      const earlier = registry.commit(record);
      if (pin) this.#pin(record);
      if (earlier !== null) void this.#removeOnceIdle(earlier);
      return record;
    } catch (thrown) {
      system.forget(record.id);
      registry.remove(record);
      throw sourceErrorOf(thrown);
    } finally {
      this.#pending.delete(record.id);
    }
  }

  /** @returns why the adapter is refused from here on, `null` for one that is served */
  async preload(name: string): Promise<AdapterError | null> {
    const { registry, system } = this.#input;
    const record = registry.find(name);
    const reading = Promise.withResolvers<StagedAdapter>();
    this.#pending.set(record.id, reading);
    try {
      system.load(record.id);
      await reading.promise;
      return null;
    } catch (thrown) {
      if (!(thrown instanceof AdapterError)) throw thrown;
      // Nobody has found it yet.
      registry.remove(registry.retire(name));
      system.forget(record.id);
      registry.refuse(name, thrown);
      return thrown;
    } finally {
      this.#pending.delete(record.id);
    }
  }

  /** @throws what `Runtime.unloadAdapter` throws */
  unload({ name, intId }: AdapterToUnload): AdapterRecord {
    const { registry } = this.#input;
    if (intId !== undefined) {
      registry.find(name);
      registry.checkIntId(intId, name);
    }
    const record = registry.retire(name);
    void this.#removeOnceIdle(record);
    return record;
  }

  /**
   * Finds the adapter that a client named, registering one by path.
   *
   * @throws what `Runtime.resolveAdapter` throws
   */
  async resolve({ name, intId, path, source }: AdapterReference, namedBy: NamedBy): Promise<AdapterRecord> {
    const { registry } = this.#input;
    if (intId !== undefined) registry.checkIntId(intId, name);
    const record = path === undefined ? registry.find(name) : await this.#adapterAt(name, path, source ?? null, namedBy);
    if (record.shutOut !== null) throw record.shutOut;
    if (intId !== undefined) registry.claimIntId(intId, record);
    return record;
  }

  /** Keeps the records true to what the actors tell. */
  note(fact: SystemFact): void {
    const { registry, pool, onLoad } = this.#input;
    const record = "adapterId" in fact && fact.adapterId !== null ? registry.byId(fact.adapterId) : undefined;
    if (record === undefined) return;
    switch (fact.type) {
      case "adapter.fetching":
      case "adapter.reading":
        record.isLoading = true;
        return;
      case "adapter.loaded": {
        const { image, report } = fact.staged;
        record.noteLoaded(fact.staged);
        this.#pending.get(record.id)?.resolve(fact.staged);
        return onLoad({ name: record.name, digest: image.digest, origin: record.origin, report, deviceBytes: pool.roundUp(image.numBytes), error: null });
      }
      case "adapter.failed":
        record.noteFailed(fact.error);
        this.#pending.get(record.id)?.reject(fact.error);
        return onLoad({ name: record.name, error: fact.error });
      case "request.ended":
        record.noteEnded(fact.finish);
        if (record.isRetired) void this.#removeOnceIdle(record);
    }
  }

  /** Loads under way fail with `error`, later ones too. */
  end(error: LorikeetError): void {
    this.#ending ??= error;
    for (const { reject } of this.#pending.values()) reject(error);
  }

  async #adapterAt(name: string, path: string, source: AdapterRecord["source"], namedBy: NamedBy): Promise<AdapterRecord> {
    const { registry, clock } = this.#input;
    const known = registry.byName(name);
    if (known?.path === path) return known;
    checkAdapterName(name);
    return registry.register(name, { ...(await this.#place(path, namedBy)), source }, clock.unixSeconds());
  }

  /** A path under the roots, or else a source. @throws {RequestError} `forbidden_path` where it is neither */
  async #placeToLoad(name: string, path: string, namedBy: NamedBy): Promise<AdapterSource> {
    const known = this.#input.registry.byName(name);
    // What has the name already may be read again from where it is, though the operator put it outside the roots.
    if (known?.path === path) return { path, isElsewhere: known.isElsewhere, isTrusted: known.isTrusted };
    try {
      return await this.#place(path, namedBy);
    } catch (thrown) {
      const source = this.#input.sourceOf(path);
      if (source !== null) return { path: source, isElsewhere: true };
      throw thrown;
    }
  }

  /** The place that a path stands for. @throws {RequestError} `forbidden_path` */
  async #place(path: string, namedBy: NamedBy): Promise<AdapterSource> {
    const { adapterRoots } = this.#input;
    const isTrusted = namedBy === "program" && adapterRoots.length === 0;
    return { path: await (isTrusted ? resolveUnderRoots(resolve(path), ["/"]) : resolveUnderRoots(path, adapterRoots)), isTrusted };
  }

  /** A request that has found the id and is not queued yet gets a turn to use it. */
  async #removeOnceIdle(record: AdapterRecord): Promise<void> {
    const { registry, system, yieldTurn } = this.#input;
    if (record.numLive > 0) return;
    await yieldTurn();
    if (record.numLive > 0 || registry.byId(record.id) === undefined) return;
    // Whoever watches is told its name while it goes.
    system.forget(record.id);
    registry.remove(record);
  }

  #checkOpen(): void {
    if (this.#ending !== null) throw this.#ending;
  }

  #pin(record: AdapterRecord): void {
    record.isPinned = true;
    this.#input.system.pin(record.id);
  }

  #checkFree(name: string, replace: boolean): void {
    if (replace || this.#input.registry.byName(name) === undefined) return;
    throw new RequestError(
      "adapter_exists",
      `the adapter ${name} has already been loaded; to load its new content in its place set load_inplace to true`,
      { field: "lora_name" },
    );
  }

  /** Without a slot that others may have, they would wait for ever. */
  #checkPins(name: string): void {
    const { pool } = this.#input;
    const numPinned = this.#pinnedBeside(name).length;
    if (numPinned + 1 < pool.numSlots) return;
    throw new CapacityError(
      "queue_full",
      `${numPinned} adapters are pinned, and of the ${pool.numSlots} slots (max_loras) one stays for all others; unload a pinned one first`,
      { field: "pin" },
    );
  }

  #checkPinnedBytes(record: AdapterRecord, staged: StagedAdapter): void {
    const { lru, pool } = this.#input;
    let hostBytes = staged.image.numBytes;
    let onDevice = pool.roundUp(staged.image.numBytes);
    for (const { id } of this.#pinnedBeside(record.name)) {
      const other = lru.peek(id);
      if (other === undefined) continue;
      hostBytes += other.image.numBytes;
      onDevice += pool.roundUp(other.image.numBytes);
    }
    const tooLarge = (bytes: number, where: string, maxBytes: number): AdapterError =>
      new AdapterError(
        "adapter_too_large",
        `with ${record.name} the pinned adapters would take ${bytes} bytes ${where}, which has ${maxBytes}; load it without pin`,
        { field: "pin" },
      );
    // The number of adapters may be what is full (max_cpu_loras), or an earlier content of the name that drains.
    if (hostBytes <= lru.maxBytes && !lru.has(record.id)) {
      throw new CapacityError(
        "queue_full",
        `the host cache has no room for ${record.name} beside the pinned adapters (max_cpu_loras, host_cache_size); unload one of them first`,
        { field: "pin" },
      );
    }
    if (hostBytes > lru.maxBytes) throw tooLarge(hostBytes, "of the host cache (host_cache_size)", lru.maxBytes);
    if (onDevice > pool.maxBytes) throw tooLarge(onDevice, "of the device's adapter memory", pool.maxBytes);
  }

  #pinnedBeside(name: string): AdapterRecord[] {
    return [...this.#input.registry.records()].filter((record) => record.isPinned && record.name !== name);
  }
}
