/** Finds stop strings in text that arrives in pieces, and holds back what may be the start of one. */

export interface StopMatch {
  /** Text that is certain not to be part of a stop string. */
  readonly text: string;
  /** The stop string found; what follows it in the text is dropped. */
  readonly stop: string | null;
}

interface StopState {
  readonly stop: string;
  /** `fallback[i]`: length of the longest proper prefix of the stop string that ends its first `i + 1` units. */
  readonly fallback: Int32Array;
  /** Units of the stop string that the text ends with. */
  matched: number;
}

export class StopMatcher {
  readonly #states: readonly StopState[];
  readonly #keepsStop: boolean;
  #held = "";

  /**
   * @param stops each at least one unit long
   * @param keepsStop whether the stop string found stays in the text
   */
  constructor(stops: readonly string[], keepsStop: boolean) {
    this.#states = stops.map((stop) => ({ stop, fallback: fallbackTable(stop), matched: 0 }));
    this.#keepsStop = keepsStop;
  }

  /**
   * @complexity linear in `text`, for each stop string
   * @source Knuth, Morris, Pratt, Fast Pattern Matching in Strings, 1977
   */
  push(text: string): StopMatch {
    const all = this.#held + text;
    for (let i = this.#held.length; i < all.length; i++) {
      const found = this.#advance(all.charCodeAt(i));
      if (found === null) continue;
      this.#held = "";
      const end = i + 1;
      return { text: all.slice(0, this.#keepsStop ? end : end - found.length), stop: found };
    }
    let longest = 0;
    for (const { matched } of this.#states) longest = Math.max(longest, matched);
    const certain = all.length - longest;
    this.#held = all.slice(certain);
    return { text: all.slice(0, certain), stop: null };
  }

  /** The text held back, once no more can follow. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    for (const state of this.#states) state.matched = 0;
    return held;
  }

  /** The longest stop string that ends with this unit. */
  #advance(unit: number): string | null {
    let found: string | null = null;
    for (const state of this.#states) {
      const { stop, fallback } = state;
      let { matched } = state;
      while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = fallback[matched - 1]!;
      if (stop.charCodeAt(matched) === unit) matched++;
      if (matched === stop.length) {
        if (found === null || stop.length > found.length) found = stop;
        matched = fallback[matched - 1]!;
      }
      state.matched = matched;
    }
    return found;
  }
}

function fallbackTable(stop: string): Int32Array {
  const table = new Int32Array(stop.length);
  let matched = 0;
  for (let i = 1; i < stop.length; i++) {
    const unit = stop.charCodeAt(i);
    while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = table[matched - 1]!;
    if (stop.charCodeAt(matched) === unit) matched++;
    table[i] = matched;
  }
  return table;
}
