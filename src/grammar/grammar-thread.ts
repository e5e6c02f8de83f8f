/** One worker that compiles grammars and follows sequences through them. */
import { type LorikeetError, NativeError, RequestError } from "../core/errors.ts";
import type { GrammarCursor, GrammarSpec } from "../core/grammar.ts";
import type { GrammarCommand, GrammarFact } from "./grammar-worker.ts";

/** What the worker must know of a model. */
export interface GrammarVocabulary {
  /** Each token's bytes in GPT-2's byte-level letters; empty for special tokens. */
  readonly vocab: readonly string[];
  readonly vocabSize: number;
  /** Tokens allowed where the grammar may end; at least one. */
  readonly stopTokens: readonly number[];
}

interface Compiling {
  readonly resolve: () => void;
  readonly reject: (error: LorikeetError) => void;
  readonly timer: ReturnType<typeof setTimeout>;
}

export class GrammarThread {
  readonly #worker: Worker;
  readonly #vocabSize: number;
  readonly #maxCompileMs: number;
  readonly #compiling = new Map<number, Compiling>();
  readonly #cursors = new Map<number, Cursor>();
  #numGrammars = 0;
  #numCursors = 0;
  #isSpent = false;
  #isOver = false;

  constructor(vocabulary: GrammarVocabulary, maxCompileMs: number) {
    this.#vocabSize = vocabulary.vocabSize;
    this.#maxCompileMs = maxCompileMs;
    this.#worker = new Worker(new URL("./grammar-worker.ts", import.meta.url).href);
    this.#worker.onmessage = ({ data }: MessageEvent<GrammarFact>) => this.#hear(data);
    this.#worker.onerror = ({ message }) => this.#fail(new Error(message));
    this.#worker.unref();
    this.#send({ type: "open", ...vocabulary });
  }

  /** Whether it takes no more grammars: after one that it could not compile its memory is not to be trusted with others. */
  get isSpent(): boolean {
    return this.#isSpent;
  }

  /** Whether the worker is gone. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** @returns the grammar's number @throws {RequestError} `invalid_request` for one that is no grammar */
  compile(spec: GrammarSpec): Promise<number> {
    const grammar = this.#numGrammars++;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#fail(new RequestError("invalid_request", `the grammar took longer than ${this.#maxCompileMs / 1000} seconds to compile; send a simpler one`));
    }, this.#maxCompileMs);
    this.#compiling.set(grammar, { resolve, reject, timer });
    // A worker without a reference would not keep a program alive that waits for nothing else.
    this.#worker.ref();
    this.#send({ type: "compile", grammar, spec });
    return promise.then(() => grammar);
  }

  forget(grammar: number): void {
    this.#send({ type: "forget", grammar });
  }

  start(grammar: number, onReady: () => void): GrammarCursor {
    const id = this.#numCursors++;
    const mask = new Int32Array(new SharedArrayBuffer(Math.ceil(this.#vocabSize / 32) * 4));
    const cursor = new Cursor(
      mask,
      onReady,
      (token) => this.#send({ type: "accept", cursor: id, token }),
      () => this.#end(id),
    );
    this.#cursors.set(id, cursor);
    if (this.#isOver) cursor.fail(lost());
    else this.#send({ type: "start", grammar, cursor: id, mask });
    return cursor;
  }

  close(): void {
    this.#fail(null);
  }

  #hear(fact: GrammarFact): void {
    switch (fact.type) {
      case "compiled":
        return this.#settle(fact.grammar, ({ resolve }) => resolve());
      case "refused":
        this.#isSpent = true;
        this.#settle(fact.grammar, ({ reject }) => reject(notAGrammar(fact.message)));
        return this.#closeWhenDone();
      case "ready":
        return this.#cursors.get(fact.cursor)?.ready();
      case "lost":
        return this.#cursors.get(fact.cursor)?.fail(lost(new Error(fact.message)));
    }
  }

  #settle(grammar: number, how: (compiling: Compiling) => void): void {
    const compiling = this.#compiling.get(grammar);
    if (compiling === undefined) return;
    clearTimeout(compiling.timer);
    this.#compiling.delete(grammar);
    if (this.#compiling.size === 0) this.#worker.unref();
    how(compiling);
  }

  #end(id: number): void {
    this.#cursors.delete(id);
    this.#send({ type: "end", cursor: id });
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#isSpent && this.#cursors.size === 0 && this.#compiling.size === 0) this.#fail(null);
  }

  #fail(cause: Error | null): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#isSpent = true;
    this.#worker.terminate();
    const error = cause instanceof RequestError ? cause : lost(cause);
    for (const grammar of this.#compiling.keys()) this.#settle(grammar, ({ reject }) => reject(error));
    for (const cursor of this.#cursors.values()) cursor.fail(lost(cause));
  }

  #send(command: GrammarCommand): void {
    if (!this.#isOver) this.#worker.postMessage(command);
  }
}

class Cursor implements GrammarCursor {
  readonly allowed: Int32Array;
  isReady = false;
  failure: LorikeetError | null = null;
  readonly #onReady: () => void;
  readonly #onAccept: (token: number) => void;
  readonly #onEnd: () => void;

  constructor(allowed: Int32Array, onReady: () => void, onAccept: (token: number) => void, onEnd: () => void) {
    this.allowed = allowed;
    this.#onReady = onReady;
    this.#onAccept = onAccept;
    this.#onEnd = onEnd;
  }

  accept(token: number): void {
    if (this.failure !== null) return;
    this.isReady = false;
    this.#onAccept(token);
  }

  end(): void {
    this.#onEnd();
  }

  ready(): void {
    this.isReady = true;
    this.#onReady();
  }

  fail(error: LorikeetError): void {
    this.failure = error;
    this.ready();
  }
}

const lost = (cause: Error | null = null): NativeError =>
  new NativeError("backend_failed", "the grammar of this request could not be followed to its end; send it again", cause === null ? {} : { cause });

const notAGrammar = (message: string): RequestError =>
  new RequestError("invalid_request", `it cannot be compiled: ${message.trim()}`);
