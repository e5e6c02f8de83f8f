/** The compute threads: started once, asleep between steps, woken by one word of shared memory. */
import { NativeError } from "../../core/errors.ts";
import { CONTROL } from "./layout.ts";
import type { PoolWorkerStart } from "./pool-worker.ts";

export class ThreadPool {
  readonly #workers: readonly Worker[];
  readonly #control: Int32Array;
  #failure: NativeError | null = null;
  #rejectStep: ((failure: NativeError) => void) | null = null;

  private constructor(workers: readonly Worker[], control: Int32Array) {
    this.#workers = workers;
    this.#control = control;
    for (const worker of workers) {
      worker.onerror = (event) => this.#fail(new Error(event.message));
      worker.unref();
    }
  }

  /** Resolves when every thread has its instance. */
  static async start(starts: readonly PoolWorkerStart[], control: Int32Array): Promise<ThreadPool> {
    const workers = starts.map(() => new Worker(new URL("./pool-worker.ts", import.meta.url).href));
    await Promise.all(
      workers.map(
        (worker, i) =>
          new Promise<void>((resolve, reject) => {
            worker.onmessage = () => resolve();
            worker.onerror = (event) =>
              reject(new NativeError("backend_unavailable", "a compute thread could not start", { cause: new Error(event.message) }));
            worker.postMessage(starts[i]);
          }),
      ),
    );
    return new ThreadPool(workers, control);
  }

  /** Runs the step that memory describes; one at a time. */
  async step(): Promise<void> {
    if (this.#failure !== null) throw this.#failure;
    for (const w of this.#workers) w.ref();
    const epoch = (Atomics.add(this.#control, CONTROL.epoch, 1) + 1) | 0;
    Atomics.notify(this.#control, CONTROL.epoch);
    const failed = new Promise<never>((_, reject) => (this.#rejectStep = reject));
    failed.catch(() => undefined);
    // A thread may wake us late, for the step before this one: only the word itself says that a step is over.
    for (let done = this.#done(); done !== epoch; done = this.#done()) {
      const woken = Atomics.waitAsync(this.#control, CONTROL.done, done);
      if (woken.async) await Promise.race([woken.value, failed]);
    }
    this.#rejectStep = null;
    for (const w of this.#workers) w.unref();
  }

  #done(): number {
    return Atomics.load(this.#control, CONTROL.done);
  }

  stop(): void {
    Atomics.store(this.#control, CONTROL.stop, 1);
    Atomics.add(this.#control, CONTROL.epoch, 1);
    Atomics.notify(this.#control, CONTROL.epoch);
    for (const worker of this.#workers) worker.terminate();
  }

  /** A trap in one thread leaves the others at a barrier for ever: the pool is over. */
  #fail(cause: Error): void {
    this.#failure = new NativeError("backend_failed", "a compute thread stopped; restart the server", { cause });
    for (const worker of this.#workers) worker.terminate();
    this.#rejectStep?.(this.#failure);
  }
}
