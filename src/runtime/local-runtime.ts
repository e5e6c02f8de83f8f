/** A running Lorikeet in this process. */
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";
import { startSystem, type ActorSystem, type SystemFact, type Timers } from "../actors/system.ts";
import type { Backend } from "../backend/backend.ts";
import { systemClock, type Clock } from "../core/clock.ts";
import {
  AdapterError,
  CapacityError,
  toLorikeetError,
  type LorikeetError,
} from "../core/errors.ts";
import { asRequestId, type AdapterId } from "../core/ids.ts";
import type { GenerationRequest } from "../core/request.ts";
import { TokenStream } from "../core/token-stream.ts";
import { Engine } from "../engine/engine.ts";
import { TextOutput } from "../engine/text-output.ts";
import { resolveUnderRoots } from "../lora/adapter-paths.ts";
import type { AdapterWeights } from "../lora/adapter-weights.ts";
import { HostLru } from "../lora/host-lru.ts";
import { SlotPool } from "../lora/slot-pool.ts";
import type { LoadedModel } from "../model/load-model.ts";
import { checkContext, checkQueueRoom } from "../schedule/admission.ts";
import { endingOf, failure, retire } from "../schedule/retire.ts";
import { createScheduleTable } from "../schedule/schedule-table.ts";
import { createSequence, finishOf, type Ending } from "../schedule/sequence.ts";
import {
  AdapterRegistry,
  checkAdapterName,
  type AdapterRecord,
} from "./adapter-registry.ts";
import { checkRequest } from "./check-request.ts";
import { InFlight } from "./in-flight.ts";
import { defaultRuntimeOptions, type RuntimeOptions } from "./runtime-options.ts";
import { type AdapterLoad, collectStats, listAdapters, type RuntimeParts } from "./runtime-parts.ts";
import type {
  AdapterListing,
  AdapterReference,
  Generation,
  Runtime,
  RuntimeStats,
} from "./runtime.ts";

export interface LocalRuntimeInput {
  readonly model: LoadedModel;
  /** Owned by the runtime from here on: `close` closes it. */
  readonly backend: Backend;
  /** Reads and checks an adapter's files. */
  readonly readAdapter: (adapter: AdapterRecord) => Promise<AdapterWeights>;
  readonly options?: Partial<RuntimeOptions>;
  readonly clock?: Clock;
  /** Timers and turns of the event loop, for simulations. */
  readonly timers?: Timers;
  readonly yieldTurn?: () => Promise<void>;
  /** Hears of every load of an adapter, and of every one that failed. */
  readonly onAdapterLoad?: (load: AdapterLoad) => void;
  /** Hears once that nothing can be served any more: the device is lost, or there is a bug. */
  readonly onFailure?: (error: LorikeetError) => void;
}

export interface LocalRuntime extends Runtime {
  /** Why nothing is served any more; `null` while all is well. */
  readonly failure: LorikeetError | null;
  /** Makes an adapter known; its files are read when it is first used. @throws {RequestError} `invalid_request` */
  registerAdapter(name: string, path: string): AdapterId;
}

/** Time that `close` gives to the last step, and then to uploads and reads, once every request has ended. */
const CLOSE_GRACE_MS = 5_000;

const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
const systemTimers: Timers = { setTimeout, clearTimeout: (id) => clearTimeout(id as Timer) };

export const createLocalRuntime = (input: LocalRuntimeInput): LocalRuntime => new InProcess(input);

class InProcess implements LocalRuntime {
  readonly model: LoadedModel;
  readonly backend: { readonly name: string; readonly description: string };
  readonly maxContext: number;
  readonly #input: LocalRuntimeInput;
  readonly #options: RuntimeOptions;
  readonly #clock: Clock;
  readonly #parts: RuntimeParts;
  readonly #system: ActorSystem;
  readonly #inFlight = new InFlight();
  readonly #drained = Promise.withResolvers<void>();
  /** Two runtimes never give the same id. */
  readonly #idPrefix = crypto.randomUUID().slice(0, 8);
  #numSubmitted = 0;
  #closing: Promise<void> | null = null;
  #failure: LorikeetError | null = null;

  constructor(input: LocalRuntimeInput) {
    const { info } = input.backend;
    const { program } = input.model;
    this.#input = input;
    this.#options = { ...defaultRuntimeOptions, ...input.options };
    this.#clock = input.clock ?? systemClock;
    this.model = input.model;
    this.backend = { name: info.name, description: info.description };
    const numPositions = info.numPages * info.pageTokens;
    const configured = this.#options.maxContext ?? Infinity;
    this.maxContext = Math.min(configured, program.maxContext, numPositions);
    const limits = {
      ...this.#options,
      maxContext: this.maxContext,
      maxRows: info.maxRows,
      maxSequences: info.maxSequences,
    };
    this.#parts = {
      table: createScheduleTable(limits, info.numPages, info.pageTokens),
      engine: new Engine(
        { run: (step) => this.#inFlight.track(input.backend.run(step)) },
        this.#clock,
      ),
      pool: new SlotPool(info.numSlots, info.adapterBytes),
      lru: new HostLru(this.#options.hostCacheBytes),
      registry: new AdapterRegistry(this.#options.maxAdapters),
      counters: { adapterLoads: 0, adapterEvictions: 0, stepMs: 0, refused: {} },
    };
    for (const { name, path } of this.#options.adapters) this.registerAdapter(name, path);
    for (const { name, error } of this.#options.refusedAdapters) this.#parts.registry.refuse(name, error);
    this.#system = this.#startSystem();
  }

  get failure(): LorikeetError | null {
    return this.#failure;
  }

  generate(request: GenerationRequest): Generation {
    try {
      return this.#admit(request);
    } catch (thrown) {
      const error = toLorikeetError(thrown);
      const { refused } = this.#parts.counters;
      refused[error.errorCode] = (refused[error.errorCode] ?? 0) + 1;
      throw error;
    }
  }

  registerAdapter(name: string, path: string): AdapterId {
    return this.#parts.registry.register(name, path, this.#clock.unixSeconds()).id;
  }

  async resolveAdapter({ name, intId, path, source }: AdapterReference): Promise<AdapterId> {
    const { registry } = this.#parts;
    if (intId !== undefined) registry.checkIntId(intId, name);
    const record = path === undefined ? registry.find(name) : await this.#adapterAt(name, path, source ?? null);
    if (intId !== undefined) registry.claimIntId(intId, record);
    return record.id;
  }

  adapters(): readonly AdapterListing[] {
    return listAdapters(this.#parts);
  }

  adapterDigest(adapter: AdapterId): string | null {
    return this.#parts.registry.byId(adapter)?.digest ?? null;
  }

  stats(): RuntimeStats {
    return collectStats(this.#parts);
  }

  close(timeoutMs = 30_000): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  async #adapterAt(name: string, path: string, source: AdapterRecord["source"]): Promise<AdapterRecord> {
    const { registry } = this.#parts;
    const known = registry.byName(name);
    if (known?.path === path) return known;
    checkAdapterName(name);
    const directory = await resolveUnderRoots(path, this.#options.adapterRoots);
    return registry.register(name, directory, this.#clock.unixSeconds(), source);
  }

  #admit(request: GenerationRequest): Generation {
    const { table, registry, pool } = this.#parts;
    if (this.#failure !== null) throw this.#failure;
    if (this.#closing !== null) {
      throw new CapacityError("shutting_down", "the server is shutting down; try another one");
    }
    const { promptTokens, adapter, sampling, timeoutMs } = request;
    checkRequest(request, this.model.program.vocabSize, pool.numSlots, registry);
    checkContext(table.limits, promptTokens.length, sampling.maxTokens);
    checkQueueRoom(table, promptTokens.length);

    const arrival = this.#numSubmitted++;
    const id = asRequestId(`${this.#idPrefix}-${arrival.toString(36)}`);
    const cancel = () => {
      if (table.sequences.has(id)) this.#system.cancel(id);
    };
    const stream = new TokenStream(cancel, this.#options);
    const { tokenizer } = this.model;
    const output = new TextOutput({ sampling, promptTokens, tokenizer, stream });
    const submittedMs = this.#clock.nowMs();
    const limitMs = this.#options.requestTimeoutMs ?? Infinity;
    const deadlineMs = submittedMs + Math.min(timeoutMs ?? Infinity, limitMs);
    const sequence = createSequence({
      id,
      adapter,
      promptTokens,
      sampling,
      output,
      arrival,
      submittedMs,
      deadlineMs,
    });
    if (adapter !== null) registry.noteSubmitted(adapter);
    this.#system.submit(sequence);
    return { id, cancel, [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator]() };
  }

  #startSystem(): ActorSystem {
    const { backend, timers, yieldTurn } = this.#input;
    const { table, engine, pool, lru, counters } = this.#parts;
    return startSystem({
      ...this.#options,
      table,
      engine,
      pool,
      lru,
      backend: {
        attach: (slot, image) => this.#inFlight.track(backend.attach(slot, image)),
        detach: (slot) => backend.detach(slot),
        deviceBytes: (image) => backend.deviceBytes(image),
      },
      readAdapter: (adapterId) => this.#inFlight.track(this.#readAdapter(adapterId)),
      clock: this.#clock,
      timers: timers ?? null,
      yieldTurn: yieldTurn ?? nextTurn,
      onStepTime: (elapsedMs) => void (counters.stepMs += elapsedMs),
      onFact: (fact) => this.#note(fact),
      onFatal: (error) => this.#fail(toLorikeetError(error)),
    });
  }

  async #readAdapter(adapterId: AdapterId): Promise<StagedAdapter> {
    const record = this.#parts.registry.byId(adapterId);
    if (record === undefined) {
      throw new AdapterError("adapter_not_found", `no adapter has the id ${adapterId}`);
    }
    const { backend } = this.#input;
    const weights = await this.#input.readAdapter(record);
    const image = await backend.stage(weights);
    const neededBytes = backend.deviceBytes(image);
    const { adapterBytes } = backend.info;
    if (neededBytes > adapterBytes) {
      throw new AdapterError(
        "adapter_too_large",
        `adapter ${record.name} needs ${neededBytes} bytes on the device, which has ${adapterBytes} for all ` +
          "adapters; give adapters more memory",
      );
    }
    return { image, report: weights.report };
  }

  #note(fact: SystemFact): void {
    const { registry, counters } = this.#parts;
    switch (fact.type) {
      case "adapter.reading":
        return registry.noteReading(fact.adapterId);
      case "adapter.loaded":
        counters.adapterLoads++;
        registry.noteLoaded(fact.adapterId, fact.staged);
        return this.#tellLoad(fact.adapterId, ({ name }) => {
          const { image, report } = fact.staged;
          return { name, digest: image.digest, report, deviceBytes: this.#input.backend.deviceBytes(image), error: null };
        });
      case "adapter.failed":
        registry.noteFailed(fact.adapterId, fact.error);
        return this.#tellLoad(fact.adapterId, ({ name }) => ({ name, error: fact.error }));
      case "slot.evicted":
        counters.adapterEvictions++;
        return;
      case "request.ended":
        if (fact.adapterId !== null) registry.noteEnded(fact.adapterId, fact.finish.usage);
        return;
      case "engine.failed":
        return this.#fail(fact.error);
      case "scheduler.drained":
        return this.#drained.resolve();
    }
  }

  #tellLoad(adapterId: AdapterId, loadOf: (record: AdapterRecord) => AdapterLoad): void {
    const record = this.#parts.registry.byId(adapterId);
    if (record !== undefined) this.#input.onAdapterLoad?.(loadOf(record));
  }

  /** Ends every request that is left; nothing is served from here on. */
  #fail(error: LorikeetError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#endAllNow(failure(error));
    this.#input.onFailure?.(error);
  }

  /** Does not wait for the step under way, which nobody will hear of, and leaves no reader waiting. */
  #endAllNow(ending: Ending): void {
    const { table } = this.#parts;
    const nowMs = this.#clock.nowMs();
    this.#system.stop();
    for (const sequence of table.sequences.values()) {
      sequence.isInStep = false;
      try {
        retire(table, sequence, ending, nowMs);
      } catch {
        // The table itself may be what is broken.
        sequence.output.finish(finishOf(sequence, ending, nowMs));
      }
    }
    this.#drained.resolve();
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#system.drain();
    if (!(await this.#within(timeoutMs, this.#drained.promise))) {
      this.#system.stopRequests();
      const isDrained = await this.#within(CLOSE_GRACE_MS, this.#drained.promise);
      if (!isDrained) this.#endAllNow(endingOf("shutdown"));
    }
    this.#system.stop();
    await this.#within(CLOSE_GRACE_MS, this.#inFlight.settled());
    await this.#input.backend.close();
  }

  /** Whether `promise` resolves within `timeoutMs`. */
  #within(timeoutMs: number, promise: Promise<void>): Promise<boolean> {
    const timers = this.#input.timers ?? systemTimers;
    return new Promise((resolve) => {
      const timer = timers.setTimeout(() => resolve(false), timeoutMs);
      void promise.then(() => {
        timers.clearTimeout(timer);
        resolve(true);
      });
    });
  }
}
