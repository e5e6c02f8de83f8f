/** Which run of neighbouring extents suits best. Pure; each looks at every extent once. */

/** What an extent's state says, beside the tick since which its content is idle. */
export const FREE = 0;
export const IN_USE = Number.MAX_VALUE;
/** In use for good. */
export const PINNED = Infinity;

/**
 * The run whose newest content is oldest, none of it in use; of several, the last.
 *
 * @param states `FREE`, a tick, `IN_USE` or `PINNED` of each extent
 * @param length at least 1
 * @returns its first extent, or `null`
 */
export function oldestRun(states: Float64Array, length: number): number | null {
  // Extents that may yet be the newest of a run, by falling state: what is older than a later one never is.
  const candidates = new Int32Array(states.length);
  let first = 0;
  let last = 0;
  let best: number | null = null;
  let bestNewest = IN_USE;
  for (let end = 0; end < states.length; end++) {
    while (last > first && states[candidates[last - 1]!]! <= states[end]!) last--;
    candidates[last++] = end;
    const start = end + 1 - length;
    if (start < 0) continue;
    if (candidates[first]! < start) first++;
    const newest = states[candidates[first]!]!;
    if (newest > bestNewest || newest >= IN_USE) continue;
    best = start;
    bestNewest = newest;
  }
  return best;
}

/**
 * The run with the fewest extents in use, none of them pinned; of several, the last.
 *
 * @param length at least 1
 * @returns its first extent, or `null`
 */
export function leastUsedRun(states: Float64Array, length: number): number | null {
  let best: number | null = null;
  let fewest = Infinity;
  let numUsed = 0;
  let afterPinned = 0;
  for (let end = 0; end < states.length; end++) {
    const start = end + 1 - length;
    if (states[end] === PINNED) afterPinned = end + 1;
    if (states[end]! >= IN_USE) numUsed++;
    if (start > 0 && states[start - 1]! >= IN_USE) numUsed--;
    if (start < afterPinned || numUsed > fewest) continue;
    best = start;
    fewest = numUsed;
  }
  return best;
}
