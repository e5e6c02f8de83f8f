/** A running Lorikeet in this process. */
import { startSystem, type ActorName, type ActorSystem, type SystemFact, type Timers } from "../actors/system.ts";
import type { Backend, BackendInfo } from "../backend/backend.ts";
import { systemClock, type Clock } from "../core/clock.ts";
import { inNextTurn } from "../core/next-turn.ts";
import { type AdapterError, CapacityError, InvariantError, toLorikeetError, type LorikeetError } from "../core/errors.ts";
import { asRequestId, type AdapterId } from "../core/ids.ts";
import type { GenerationRequest } from "../core/request.ts";
import { TokenStream } from "../core/token-stream.ts";
import { TextOutput } from "../engine/text-output.ts";
import type { LoadedModel } from "../model/load-model.ts";
import { closeRequest, openRequest } from "../schedule/quotas.ts";
import { endingOf, failure, retire } from "../schedule/retire.ts";
import { createSequence, finishOf, type Ending } from "../schedule/sequence.ts";
import { AdapterControl } from "./adapter-control.ts";
import { checkRequest } from "./check-request.ts";
import { AdapterFetches, type FetchAdapter } from "./fetch-adapter.ts";
import { InFlight } from "./in-flight.ts";
import { modelGrammars, type ModelGrammars } from "./model-grammars.ts";
import { defaultRuntimeOptions, type RuntimeOptions } from "./runtime-options.ts";
import { deviceBudgets } from "./device-budgets.ts";
import { type AdapterLoad, collectStats, createParts, listAdapters, listingOf, mapMemory, type RuntimeParts } from "./runtime-parts.ts";
import { AdapterStager, type ReadAdapter } from "./stage-adapter.ts";
import { Transitions, type TransitionListener } from "./transitions.ts";
import type {
  AdapterListing,
  AdapterReference,
  AdapterToLoad,
  AdapterToUnload,
  Generation,
  MemoryMap,
  NamedBy,
  Runtime,
  RuntimeStats,
} from "./runtime.ts";

export interface LocalRuntimeInput {
  readonly model: LoadedModel;
  /** Owned by the runtime from here on: `close` closes it. */
  readonly backend: Backend;
  readonly readAdapter: ReadAdapter;
  readonly options?: Partial<RuntimeOptions>;
  readonly clock?: Clock;
  /** Timers and turns of the event loop, for simulations. */
  readonly timers?: Timers;
  readonly yieldTurn?: () => Promise<void>;
  /** Brings an adapter that is elsewhere to this machine; there are none where it is left out. */
  readonly fetchAdapter?: FetchAdapter;
  /** A source that the admin key may load from, as `fetchAdapter` takes it; `null` for anything else. None is where it is left out. */
  readonly sourceOf?: (text: string) => string | null;
  /** Hears of every load of an adapter, and of every one that failed. */
  readonly onAdapterLoad?: (load: AdapterLoad) => void;
  /** Hears once that nothing can be served any more: the device is lost, or there is a bug. */
  readonly onFailure?: (error: LorikeetError) => void;
}

export interface LocalRuntime extends Runtime {
  readonly backend: Runtime["backend"] & Pick<BackendInfo, "weightBytes" | "maxSequences" | "maxRows">;
  /** Why nothing is served any more; `null` while all is well. */
  readonly failure: LorikeetError | null;
  /**
   * Reads an adapter that is known into host memory, ahead of its first request.
   *
   * @returns why it cannot be served, which its requests are answered from then on; `null` where it can
   */
  preload(name: string): Promise<AdapterError | null>;
  /** Makes an adapter known; its files are read when it is first used. @throws {RequestError} `invalid_request` */
  registerAdapter(name: string, path: string): AdapterId;
}

/** Time that `close` gives to the last step, and then to uploads and reads, once every request has ended. */
const CLOSE_GRACE_MS = 5_000;

const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
const systemTimers: Timers = { setTimeout, clearTimeout: (id) => clearTimeout(id as Timer) };

const shuttingDown = (): CapacityError => new CapacityError("shutting_down", "the server is shutting down; try another one");

export const createLocalRuntime = (input: LocalRuntimeInput): LocalRuntime => new InProcess(input);

class InProcess implements LocalRuntime {
  readonly model: LoadedModel;
  readonly backend: LocalRuntime["backend"];
  readonly maxContext: number;
  readonly #input: LocalRuntimeInput;
  readonly #options: RuntimeOptions;
  readonly #clock: Clock;
  readonly #parts: RuntimeParts;
  readonly #system: ActorSystem;
  readonly #control: AdapterControl;
  readonly #inFlight = new InFlight();
  readonly #transitions: Transitions;
  readonly #grammars: ModelGrammars;
  /** Readers are woken when the next step is under way: what they do with their tokens does not keep it waiting. */
  readonly #soon: (wake: () => void) => void;
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
    this.#soon = inNextTurn(input.yieldTurn ?? nextTurn);
    this.model = input.model;
    const { name, description, weightBytes, maxSequences, maxRows } = info;
    this.backend = { name, description, weightBytes, maxSequences, maxRows };
    const configured = this.#options.maxContext ?? Infinity;
    const budgets = deviceBudgets(info, Math.min(configured, program.maxContext), this.#options.adapterBytes);
    this.maxContext = budgets.maxContext;
    const run: Backend["run"] = (step) => this.#inFlight.track(input.backend.run(step));
    this.#parts = createParts({ info, run }, { ...this.#options, ...budgets }, this.#clock);
    this.#grammars = modelGrammars(input.model, input.backend);
    this.#transitions = new Transitions({
      clock: this.#clock,
      nameOf: (adapterId) => this.#parts.registry.byId(adapterId)?.name ?? `#${adapterId}`,
    });
    for (const { name, ...source } of this.#options.adapters) this.#parts.registry.register(name, source, this.#clock.unixSeconds());
    for (const { name, error } of this.#options.refusedAdapters) this.#parts.registry.refuse(name, error);
    this.#system = this.#startSystem();
    this.#control = new AdapterControl({
      ...this.#parts,
      system: this.#system,
      clock: this.#clock,
      adapterRoots: this.#options.adapterRoots,
      sourceOf: input.sourceOf ?? (() => null),
      yieldTurn: input.yieldTurn ?? nextTurn,
      onLoad: input.onAdapterLoad ?? (() => undefined),
    });
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

  compileGrammar: Runtime["compileGrammar"] = (spec) => this.#grammars.compile(spec);

  registerAdapter(name: string, path: string): AdapterId {
    return this.#parts.registry.register(name, { path }, this.#clock.unixSeconds()).id;
  }

  async resolveAdapter(reference: AdapterReference, namedBy: NamedBy = "client"): Promise<AdapterId> {
    return (await this.#control.resolve(reference, namedBy)).id;
  }

  preload(name: string): Promise<AdapterError | null> {
    return this.#control.preload(name);
  }

  async loadAdapter(adapter: AdapterToLoad, namedBy: NamedBy = "client"): Promise<AdapterListing> {
    return listingOf(this.#parts, await this.#control.load(adapter, namedBy));
  }

  async unloadAdapter(adapter: AdapterToUnload): Promise<AdapterListing> {
    return listingOf(this.#parts, this.#control.unload(adapter));
  }

  adapters(): readonly AdapterListing[] {
    return listAdapters(this.#parts);
  }

  adapterDigest(adapter: AdapterId): string | null {
    return this.#parts.registry.byId(adapter)?.digest ?? null;
  }

  stats(): RuntimeStats {
    return collectStats(this.#parts, this.#clock.nowMs());
  }

  memory(): MemoryMap {
    return mapMemory(this.#parts, this.#input.backend.info);
  }

  watch(listener: TransitionListener): () => void {
    return this.#transitions.watch(listener);
  }

  close(timeoutMs = 30_000): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  #admit(request: GenerationRequest): Generation {
    const { table, registry, quotas } = this.#parts;
    if (this.#failure !== null) throw this.#failure;
    if (this.#closing !== null) {
      throw shuttingDown();
    }
    const { promptTokens, adapter, sampling, timeoutMs } = request;
    const submittedMs = this.#clock.nowMs();
    checkRequest(request, this.model.program.vocabSize, submittedMs, this.#parts);

    const arrival = this.#numSubmitted++;
    const id = asRequestId(`${this.#idPrefix}-${arrival.toString(36)}`);
    const cancel = () => {
      if (table.sequences.has(id)) this.#system.cancel(id);
    };
    const stream = new TokenStream(cancel, this.#options, this.#soon);
    const { tokenizer } = this.model;
    const grammar = request.grammar?.start(() => this.#system.ready()) ?? null;
    const output = new TextOutput({ sampling, promptTokens, tokenizer, stream, grammar });
    const limitMs = this.#options.requestTimeoutMs ?? Infinity;
    const deadlineMs = submittedMs + Math.min(timeoutMs ?? Infinity, limitMs);
    const sequence = createSequence({
      id,
      adapter,
      tenant: request.tenant,
      promptTokens,
      sampling,
      output,
      arrival,
      priority: request.priority ?? 0,
      ...(request.cacheSalt === undefined ? {} : { cacheSalt: request.cacheSalt }),
      submittedMs,
      deadlineMs,
    });
    if (adapter !== null) registry.byId(adapter)?.noteSubmitted(this.#clock.unixSeconds());
    openRequest(quotas, request.tenant, promptTokens.length);
    this.#transitions.submitted(id, adapter);
    this.#system.submit(sequence);
    return { id, cancel, [Symbol.asyncIterator]: () => stream[Symbol.asyncIterator]() };
  }

  #startSystem(): ActorSystem {
    const { backend, timers, yieldTurn } = this.#input;
    const { goesAhead } = this.#options;
    const { table, engine, pool, lru, counters, registry } = this.#parts;
    const stager = new AdapterStager(this.#input.readAdapter, backend, pool);
    const fetches = new AdapterFetches(this.#input.fetchAdapter ?? (() => Promise.reject(new InvariantError("nothing is elsewhere"))));
    return startSystem({
      ...this.#options,
      table,
      engine,
      stepsAhead: goesAhead ? (backend.info.stepsAhead ?? 0) : 0,
      pool,
      lru,
      backend: {
        attach: (slot, extent, image) => {
          this.#transitions.attaching(slot);
          return this.#inFlight.track(backend.attach(slot, extent, image));
        },
        detach: (slot) => backend.detach(slot),
      },
      isElsewhere: (adapterId) => registry.byId(adapterId)?.isElsewhere === true,
      fetchAdapter: async (adapterId, signal) => this.#inFlight.track(fetches.fetch(registry.get(adapterId), signal)),
      readAdapter: async (adapterId) => this.#inFlight.track(stager.stage(registry.get(adapterId))),
      clock: this.#clock,
      timers: timers ?? null,
      yieldTurn: yieldTurn ?? nextTurn,
      onStepTime: (elapsedMs) => void (counters.stepMs += elapsedMs),
      onFact: (fact, actor) => this.#note(fact, actor),
      onState: (actor, state) => this.#transitions.entered(actor, state),
      onFatal: (error) => this.#fail(toLorikeetError(error)),
    });
  }

  #note(fact: SystemFact, actor: ActorName): void {
    const { counters, quotas } = this.#parts;
    this.#transitions.note(fact, actor);
    this.#control.note(fact);
    switch (fact.type) {
      case "adapter.loaded":
        counters.adapterLoads++;
        return;
      case "slot.evicted":
        counters.adapterEvictions++;
        return;
      case "request.ended":
        return closeRequest(quotas, fact.tenant, fact.finish.usage, fact.hasRun, this.#clock.nowMs());
      case "engine.failed":
        return this.#fail(fact.error);
      case "scheduler.drained":
        return this.#drained.resolve();
    }
  }

  /** Ends every request that is left; nothing is served from here on. */
  #fail(error: LorikeetError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#control.end(error);
    this.#endAllNow(failure(error));
    this.#input.onFailure?.(error);
  }

  /** Does not wait for steps under way, which nobody will hear of, and leaves no reader waiting. */
  #endAllNow(ending: Ending): void {
    const { table } = this.#parts;
    const nowMs = this.#clock.nowMs();
    this.#system.stop();
    for (const sequence of table.sequences.values()) {
      sequence.numUnderWay = 0;
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
    this.#control.end(shuttingDown());
    this.#system.drain();
    if (!(await this.#within(timeoutMs, this.#drained.promise))) {
      this.#system.stopRequests();
      const isDrained = await this.#within(CLOSE_GRACE_MS, this.#drained.promise);
      if (!isDrained) this.#endAllNow(endingOf("shutdown"));
    }
    this.#system.stop();
    await this.#within(CLOSE_GRACE_MS, this.#inFlight.settled());
    this.#grammars.close();
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
