/** "Did you mean": the known name closest to one that is not known. */

/** @returns `undefined` when none is close enough to be a likely slip */
export function nearestName(name: string, known: Iterable<string>): string | undefined {
  const written = plain(name);
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(written.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(written, plain(candidate), bestDistance);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** ` (did you mean X?)`, or nothing. */
export function didYouMean(name: string, known: Iterable<string>): string {
  const nearest = nearestName(name, known);
  return nearest === undefined ? "" : ` (did you mean ${nearest}?)`;
}

/** Long names are cut: nobody means a known name with 100 letters. */
const plain = (name: string): string => name.slice(0, 64).toLowerCase().replaceAll(/[^a-z0-9]/g, "");

/** Levenshtein distance, or anything from `limit` up once it cannot be below. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) >= limit) return limit;
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + change));
    }
    // No later row is below the least of this one.
    if (Math.min(...next) >= limit) return limit;
    row = next;
  }
  return row[b.length]!;
}
