/** Contiguous runs of units: first fit, with neighbours merged when freed. */
import { invariant } from "../core/errors.ts";

interface Gap {
  readonly start: number;
  readonly length: number;
}

export class RunAllocator {
  readonly numUnits: number;
  /** Ascending, never touching. */
  #gaps: Gap[];

  /** @param numUnits at least 0 */
  constructor(numUnits: number) {
    this.numUnits = numUnits;
    this.#gaps = numUnits > 0 ? [{ start: 0, length: numUnits }] : [];
  }

  get numFree(): number {
    return this.#gaps.reduce((sum, gap) => sum + gap.length, 0);
  }

  /** Longest run that `allocate` would give now. */
  get longestFree(): number {
    return this.#gaps.reduce((longest, gap) => Math.max(longest, gap.length), 0);
  }

  /** @returns the first unit of a run of `length` units, at least 1; `undefined` when no gap is that long */
  allocate(length: number): number | undefined {
    invariant(length >= 1, "a run has at least one unit");
    const index = this.#gaps.findIndex((gap) => gap.length >= length);
    const gap = this.#gaps[index];
    if (gap === undefined) return undefined;
    if (gap.length === length) this.#gaps.splice(index, 1);
    else this.#gaps[index] = { start: gap.start + length, length: gap.length - length };
    return gap.start;
  }

  /** Gives a run back, whole as it was allocated. */
  free(start: number, length: number): void {
    const next = this.#gaps.findIndex((gap) => gap.start > start);
    const index = next === -1 ? this.#gaps.length : next;
    const before = this.#gaps[index - 1];
    const after = this.#gaps[index];
    const end = start + length;
    invariant(
      start >= 0 && end <= this.numUnits && (before === undefined || before.start + before.length <= start) &&
        (after === undefined || end <= after.start),
      "only an allocated run is freed",
    );
    const joinsBefore = before !== undefined && before.start + before.length === start;
    const joinsAfter = after !== undefined && after.start === end;
    const merged = {
      start: joinsBefore ? before.start : start,
      length: length + (joinsBefore ? before.length : 0) + (joinsAfter ? after.length : 0),
    };
    this.#gaps.splice(index - (joinsBefore ? 1 : 0), (joinsBefore ? 1 : 0) + (joinsAfter ? 1 : 0), merged);
  }
}
