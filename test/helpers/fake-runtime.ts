/** A runtime without a model: it answers every request with a script, through real token streams. */
import { AdapterError, CapacityError, type LorikeetError } from "../../src/core/errors.ts";
import type { Grammar, GrammarSpec } from "../../src/core/grammar.ts";
import { type AdapterId, asAdapterId, asRequestId } from "../../src/core/ids.ts";
import type { Finish, GenerationRequest, RequestTiming } from "../../src/core/request.ts";
import type { FinishReason, SampledToken } from "../../src/core/sampling.ts";
import { TokenStream } from "../../src/core/token-stream.ts";
import type { LoadedModel } from "../../src/model/load-model.ts";
import type {
  AdapterListing,
  AdapterReference,
  AdapterState,
  AdapterToLoad,
  AdapterToUnload,
  Generation,
  MemoryMap,
  Runtime,
  RuntimeStats,
  Transition,
  TransitionListener,
} from "../../src/runtime/runtime.ts";
import { FAKE_VOCAB, fakeTokenizer } from "./fake-tokenizer.ts";

/** One sequence as its script sees it. */
export class FakeSequence {
  readonly request: GenerationRequest;
  readonly stream: TokenStream;
  readonly tokens: SampledToken[] = [];
  isCancelled = false;
  isOver = false;
  timing: RequestTiming = { queueMs: 0, adapterMs: 0, prefillMs: 0, decodeMs: 0 };
  onCancel: () => void = () => undefined;
  readonly #onEnd: (sequence: FakeSequence, reason: FinishReason) => void;

  constructor(request: GenerationRequest, onEnd: (sequence: FakeSequence, reason: FinishReason) => void) {
    this.request = request;
    this.#onEnd = onEnd;
    this.stream = new TokenStream(() => this.cancel());
  }

  /** Pushes one token per byte; the text comes with the last one. */
  say(text: string): void {
    const tokens = [...new TextEncoder().encode(text)].map((id, i) => this.#token(id, i));
    this.tokens.push(...tokens);
    if (!this.isOver && !this.stream.push(text, tokens)) this.end("cancelled");
  }

  end(reason: FinishReason, error: LorikeetError | null = null): void {
    if (this.isOver) return;
    this.isOver = true;
    const finish: Finish = {
      reason,
      stopReason: null,
      error,
      usage: { promptTokens: this.request.promptTokens.length, completionTokens: this.tokens.length },
      timing: this.timing,
    };
    this.#onEnd(this, reason);
    this.stream.end("", [], finish);
  }

  cancel(): void {
    if (this.isCancelled || this.isOver) return;
    this.isCancelled = true;
    this.end("cancelled");
    this.onCancel();
  }

  #token(id: number, index: number): SampledToken {
    const wanted = this.request.sampling.logprobs ?? 0;
    const top = Array.from({ length: wanted }, (_, k) => ({ id: (id + k) % 256, logprob: -0.5 - k }));
    return { id, logprob: -0.5, rank: 1 + (index % 1), top };
  }
}

export type Script = (sequence: FakeSequence) => void;

/** Says the words, a word per turn of the event loop, up to `maxTokens` bytes. */
export const saying =
  (text: string): Script =>
  (sequence) => {
    const { maxTokens } = sequence.request.sampling;
    const isCut = text.length > maxTokens;
    const words = text.slice(0, maxTokens).split(/(?<= )/);
    const next = (): void => {
      const word = words.shift();
      if (sequence.isOver) return;
      if (word === undefined) return sequence.end(isCut ? "length" : "stop");
      sequence.say(word);
      setImmediate(next);
    };
    setImmediate(next);
  };

export interface FakeRuntimeOptions {
  readonly script?: Script;
  readonly adapters?: readonly string[];
  /** What is thrown for a name. */
  readonly refused?: Readonly<Record<string, LorikeetError>>;
  readonly maxContext?: number;
  /** Requests held at once; one more is refused. */
  readonly maxRequests?: number;
  readonly hasTokenizer?: boolean;
  /** Of adapters by name; `registered` and unknown otherwise. */
  readonly states?: Readonly<Record<string, AdapterState>>;
  readonly ranks?: Readonly<Record<string, number>>;
  /** Text of the chat template. */
  readonly template?: string;
}

export class FakeRuntime implements Runtime {
  readonly model: LoadedModel;
  readonly backend = { name: "fake", description: "no model" };
  readonly maxContext: number;
  readonly sequences: FakeSequence[] = [];
  readonly grammars: GrammarSpec[] = [];
  readonly references: AdapterReference[] = [];
  readonly loads: AdapterToLoad[] = [];
  readonly listeners = new Set<TransitionListener>();
  /** Of adapters that were read. */
  readonly digests = new Map<AdapterId, string>();
  script: Script;
  isClosed = false;
  readonly #options: FakeRuntimeOptions;
  readonly #names: string[];
  readonly #refused: Readonly<Record<string, LorikeetError>>;
  readonly #maxRequests: number;
  readonly #finished: Record<string, number> = {};

  constructor(options: FakeRuntimeOptions = {}) {
    this.#options = options;
    this.script = options.script ?? saying("One day Rosa went home.");
    this.#names = [...(options.adapters ?? ["sql", "translate-fr"])];
    this.#refused = options.refused ?? {};
    this.#maxRequests = options.maxRequests ?? Infinity;
    this.maxContext = options.maxContext ?? 512;
    const parts = {
      name: "demo",
      directory: "demo",
      program: { vocabSize: FAKE_VOCAB },
      tokenizer: options.hasTokenizer === false ? null : fakeTokenizer,
      chatTemplate: options.template === undefined ? null : { source: options.template },
      generation: { eosTokenIds: [257] },
    };
    // The rest of a model is for backends, and there is none.
    this.model = parts as unknown as LoadedModel;
  }

  get live(): FakeSequence[] {
    return this.sequences.filter(({ isOver }) => !isOver);
  }

  generate(request: GenerationRequest): Generation {
    if (this.isClosed) throw new CapacityError("shutting_down", "the server is shutting down");
    if (this.live.length >= this.#maxRequests) {
      throw new CapacityError("queue_full", `the queue is full: ${this.#maxRequests} requests wait already`);
    }
    const sequence = new FakeSequence(request, (_, reason) => {
      this.#finished[reason] = (this.#finished[reason] ?? 0) + 1;
    });
    this.sequences.push(sequence);
    this.script(sequence);
    return {
      id: asRequestId(`fake-${this.sequences.length}`),
      cancel: () => sequence.cancel(),
      [Symbol.asyncIterator]: () => sequence.stream[Symbol.asyncIterator](),
    };
  }

  async compileGrammar(spec: GrammarSpec): Promise<Grammar> {
    this.grammars.push(spec);
    return { start: () => ({ isReady: true, allowed: new Int32Array(1).fill(-1), failure: null, accept: () => undefined, end: () => undefined }) };
  }

  async resolveAdapter(reference: AdapterReference): Promise<AdapterId> {
    this.references.push(reference);
    const refused = this.#refused[reference.name];
    if (refused !== undefined) throw refused;
    if (reference.path !== undefined && !this.#names.includes(reference.name)) this.#names.push(reference.name);
    const at = this.#names.indexOf(reference.name);
    if (at === -1) {
      throw new AdapterError("adapter_not_found", `there is no adapter "${reference.name}"`, { field: "lora_request" });
    }
    return asAdapterId(at);
  }

  adapters(): readonly AdapterListing[] {
    return this.#names.map((name, i) => ({
      id: asAdapterId(i),
      name,
      path: `/adapters/${name}`,
      state: this.#options.states?.[name] ?? "registered",
      tier: "disk",
      isPinned: false,
      digest: null,
      rank: this.#options.ranks?.[name] ?? null,
      numModules: null,
      invocation: null,
      numBytes: null,
      numLive: this.live.filter(({ request }) => request.adapter === i).length,
      numRequests: this.sequences.filter(({ request }) => request.adapter === i).length,
      numRunning: this.live.filter(({ request, tokens }) => request.adapter === i && tokens.length > 0).length,
      numWaiting: this.live.filter(({ request, tokens }) => request.adapter === i && tokens.length === 0).length,
      promptTokens: 0,
      generatedTokens: 0,
      numLoads: 0,
      origin: null,
      download: null,
      lastError: null,
      created: 1_700_000_000,
      lastUsed: null,
    }));
  }

  async loadAdapter(adapter: AdapterToLoad): Promise<AdapterListing> {
    this.loads.push(adapter);
    const refused = this.#refused[adapter.name];
    if (refused !== undefined) throw refused;
    if (!this.#names.includes(adapter.name)) this.#names.push(adapter.name);
    return this.adapters().find(({ name }) => name === adapter.name)!;
  }

  async unloadAdapter({ name }: AdapterToUnload): Promise<AdapterListing> {
    const listing = this.adapters().find((each) => each.name === name);
    if (listing === undefined) throw new AdapterError("adapter_not_found", `no adapter is named "${name}"`, { field: "lora_name" });
    this.#names.splice(this.#names.indexOf(name), 1);
    return listing;
  }

  memory(): MemoryMap {
    return {
      weightBytes: 1000,
      pool: { numBytes: 1200, numExtents: 12, cells: { extentsPerCell: 1, holders: [0, null, 0, 1, null, null, null, null, null, null, null, 2] } },
      kv: { numPages: 8, pageTokens: 16, numIdle: 1, held: [{ adapter: "sql", numPages: 2 }] },
      device: { maxBytes: 400, held: [{ adapter: "sql", numBytes: 100, isUsed: true }] },
      host: { maxBytes: 1024, held: [] },
    };
  }

  watch(listener: TransitionListener): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  tell(transition: Transition): void {
    for (const listener of this.listeners) listener(transition);
  }

  adapterDigest(adapter: AdapterId): string | null {
    return this.digests.get(adapter) ?? null;
  }

  stats(): RuntimeStats {
    const count = (number: (sequence: FakeSequence) => number) =>
      this.sequences.reduce((sum, sequence) => sum + number(sequence), 0);
    return {
      waitingRequests: 0,
      runningRequests: this.live.length,
      numPages: 8,
      usedPages: 2,
      idlePages: 0,
      pageTokens: 16,
      numSlots: 4,
      usedSlots: 1,
      adapterBytes: 100,
      adapterMaxBytes: 400,
      hostCacheAdapters: 2,
      hostCacheBytes: 0,
      hostCacheMaxBytes: 1024,
      contention: { numWaitingGroups: 0, longestWaitMs: 0, servedGapRows: 0, tenantGapRows: 0 },
      steps: 3,
      promptTokens: count(({ request }) => request.promptTokens.length),
      generatedTokens: count(({ tokens }) => tokens.length),
      preemptions: 0,
      prefixQueries: 0,
      prefixHits: 0,
      adapterLoads: 0,
      adapterEvictions: 0,
      finished: this.#finished,
      refused: {},
      stepComputeMs: 0,
      stepHostMs: 0,
    };
  }

  async close(): Promise<void> {
    this.isClosed = true;
    for (const sequence of this.live) sequence.end("shutdown");
  }
}
