/** The merges of a byte-pair encoding, and how they turn one word's bytes into tokens. */

/** Up to here a plain scan for the best pair beats a heap. */
const MAX_SCANNED = 96;
const NONE = -1;
/** Heap entries hold a rank and a position in one number; positions have the lower bits. */
const POSITIONS = 2 ** 30;

export class MergeTable {
  readonly #numTokens: number;
  /** Pair of token ids, as one number, to the rank of its merge. */
  readonly #rankOfPair = new Map<number, number>();
  readonly #merged: number[] = [];

  /** @param numTokens every id is below it */
  constructor(numTokens: number) {
    this.#numTokens = numTokens;
  }

  /** Adds the next merge; earlier ones are applied first. */
  push(left: number, right: number, merged: number): void {
    this.#rankOfPair.set(left * this.#numTokens + right, this.#merged.length);
    this.#merged.push(merged);
  }

  /** A rank that no pair has, for a merge that is left out. */
  skip(): void {
    this.#merged.push(NONE);
  }

  /**
   * Merges in place, lowest rank first and leftmost among equals.
   *
   * @param ids the bytes of one word as token ids
   * @returns how many of `ids` are left, from the start
   * @complexity O(n log n), O(n²) for short words
   */
  apply(ids: Int32Array, length: number): number {
    return length > MAX_SCANNED
      ? this.#applyByHeap(ids, length)
      : this.#applyByScan(ids, length);
  }

  #rank(left: number, right: number): number {
    return this.#rankOfPair.get(left * this.#numTokens + right) ?? NONE;
  }

  #applyByScan(ids: Int32Array, start: number): number {
    let length = start;
    const ranks = scanRanks;
    for (let i = 0; i + 1 < length; i++)
      ranks[i] = this.#rank(ids[i]!, ids[i + 1]!);
    for (;;) {
      let best = NONE;
      let at = 0;
      for (let i = 0; i + 1 < length; i++) {
        const rank = ranks[i]!;
        if (rank !== NONE && (best === NONE || rank < best)) {
          best = rank;
          at = i;
        }
      }
      if (best === NONE) return length;
      ids[at] = this.#merged[best]!;
      ids.copyWithin(at + 1, at + 2, length);
      ranks.copyWithin(at + 1, at + 2, length);
      length--;
      if (at + 1 < length) ranks[at] = this.#rank(ids[at]!, ids[at + 1]!);
      if (at > 0) ranks[at - 1] = this.#rank(ids[at - 1]!, ids[at]!);
    }
  }

  #applyByHeap(ids: Int32Array, length: number): number {
    const next = new Int32Array(length);
    const previous = new Int32Array(length);
    const ranks = new Int32Array(length).fill(NONE);
    const heap: number[] = [];
    const consider = (at: number): void => {
      const after = next[at]!;
      const rank = after < length ? this.#rank(ids[at]!, ids[after]!) : NONE;
      ranks[at] = rank;
      if (rank !== NONE) pushHeap(heap, rank * POSITIONS + at);
    };
    for (let i = 0; i < length; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    for (let i = 0; i < length; i++) consider(i);
    while (heap.length > 0) {
      const entry = popHeap(heap);
      const rank = Math.floor(entry / POSITIONS);
      const at = entry % POSITIONS;
      // The pair may have changed since the entry was made.
      if (ranks[at] !== rank) continue;
      const gone = next[at]!;
      ids[at] = this.#merged[rank]!;
      ranks[gone] = NONE;
      next[at] = next[gone]!;
      if (next[at]! < length) previous[next[at]!] = at;
      consider(at);
      if (previous[at]! !== NONE) consider(previous[at]!);
    }
    let numLeft = 0;
    for (let at = 0; at < length; at = next[at]!) ids[numLeft++] = ids[at]!;
    return numLeft;
  }
}

const scanRanks = new Int32Array(MAX_SCANNED);

function pushHeap(heap: number[], entry: number): void {
  let at = heap.length;
  heap.push(entry);
  while (at > 0) {
    const parent = (at - 1) >> 1;
    const above = heap[parent]!;
    if (above <= entry) break;
    heap[at] = above;
    at = parent;
  }
  heap[at] = entry;
}

function popHeap(heap: number[]): number {
  const top = heap[0]!;
  const entry = heap.pop()!;
  const length = heap.length;
  if (length === 0) return top;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= length) break;
    if (child + 1 < length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= entry) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = entry;
  return top;
}
