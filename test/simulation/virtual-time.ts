/** Time, timers, turns of the event loop and chance, all owned by the test. */
import type { Timers } from "../../src/actors/system.ts";
import type { Clock } from "../../src/core/clock.ts";

interface Timer {
  readonly atMs: number;
  readonly order: number;
  readonly run: () => void;
}

export class VirtualTime {
  #nowMs = 0;
  #numTimers = 0;
  readonly #timers = new Map<number, Timer>();
  #turns: (() => void)[] = [];

  readonly clock: Clock = { nowMs: () => this.#nowMs, unixSeconds: () => 1_700_000_000 };

  readonly timers: Timers = {
    setTimeout: (run, delayMs) => {
      const order = this.#numTimers++;
      this.#timers.set(order, { atMs: this.#nowMs + Math.max(0, delayMs), order, run });
      return order;
    },
    clearTimeout: (id) => void this.#timers.delete(id as number),
  };

  readonly yieldTurn = (): Promise<void> =>
    new Promise((resolve) => void this.#turns.push(resolve));

  readonly sleep = (delayMs: number): Promise<void> =>
    new Promise((resolve) => void this.timers.setTimeout(resolve, delayMs));

  /** Moves on, fires what is due in order of time, and lets everyone who waits for a turn go on. */
  async advance(deltaMs: number): Promise<void> {
    this.#nowMs += deltaMs;
    const due = [...this.#timers.values()].filter(({ atMs }) => atMs <= this.#nowMs);
    for (const timer of due.toSorted((a, b) => a.atMs - b.atMs || a.order - b.order)) {
      // An earlier one may have cleared it.
      if (this.#timers.delete(timer.order)) timer.run();
    }
    const turns = this.#turns;
    this.#turns = [];
    for (const resume of turns) resume();
    // A turn of the real event loop runs every promise that can go on.
    await new Promise<void>((resolve) => void setImmediate(resolve));
  }
}

/** Numbers that depend on the seed alone. */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 to below 1. @source mulberry32, Tommy Ettinger, public domain */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from `min` to `max`, both possible. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  isOnce(probability: number): boolean {
    return this.next() < probability;
  }
}
