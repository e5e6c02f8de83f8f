/** Promises under way, so that what they use is not closed beneath them. */
export class InFlight {
  readonly #promises = new Set<Promise<unknown>>();

  track<T>(promise: Promise<T>): Promise<T> {
    this.#promises.add(promise);
    const forget = () => void this.#promises.delete(promise);
    promise.then(forget, forget);
    return promise;
  }

  /** Resolves when all that are under way now have settled. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#promises);
  }
}
