/** The events of several generations as one sequence, each as soon as it is there. */
import type { GenerationEvent } from "../core/request.ts";
import type { Generation } from "../runtime/runtime.ts";

export interface ChoiceEvent {
  readonly choice: number;
  readonly event: GenerationEvent;
}

/**
 * Pull based: a generation is asked for its next event only after the reader came back for more, so what
 * piles up in front of a slow reader stays in the generations' own bounded streams.
 */
export class MergedEvents {
  readonly #iterators: readonly AsyncIterator<GenerationEvent>[];
  readonly #idle: Set<number>;
  #numOpen: number;
  #arrived: ChoiceEvent[] = [];
  #failure: { readonly thrown: unknown } | null = null;
  #wake: () => void = () => undefined;

  constructor(generations: readonly Generation[]) {
    this.#iterators = generations.map((generation) => generation[Symbol.asyncIterator]());
    this.#idle = new Set(generations.keys());
    this.#numOpen = generations.length;
  }

  /**
   * Waits for at least one event and takes all that are there.
   *
   * @returns an empty list once every generation has ended
   */
  next(): Promise<readonly ChoiceEvent[]> {
    return this.#iterators.length === 1 ? this.#nextOfOne() : this.#nextOfAny();
  }

  /** Of a single generation, as most answers have: its stream does all the waiting. */
  async #nextOfOne(): Promise<readonly ChoiceEvent[]> {
    const { done, value } = await this.#iterators[0]!.next();
    return done === true ? [] : [{ choice: 0, event: value }];
  }

  async #nextOfAny(): Promise<readonly ChoiceEvent[]> {
    for (const choice of this.#idle) this.#ask(choice);
    this.#idle.clear();
    while (this.#arrived.length === 0 && this.#failure === null && this.#numOpen > 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#failure !== null) throw this.#failure.thrown;
    const events = this.#arrived;
    this.#arrived = [];
    return events;
  }

  #ask(choice: number): void {
    this.#iterators[choice]!.next().then(
      ({ done, value }) => {
        if (done === true) {
          this.#numOpen--;
        } else {
          this.#arrived.push({ choice, event: value });
          this.#idle.add(choice);
        }
        this.#wake();
      },
      (thrown: unknown) => {
        this.#failure = { thrown };
        this.#wake();
      },
    );
  }
}
