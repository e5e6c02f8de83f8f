/** Strings with a value each, to be found in a text: leftmost first, longest of those. */

export interface TrieMatch<T> {
  readonly start: number;
  readonly end: number;
  readonly value: T;
}

export interface Trie<T> {
  /** @param from index to search from */
  findLongest(text: string, from: number): TrieMatch<T> | undefined;
}

interface Node<T> {
  readonly children: Map<number, Node<T>>;
  value: T | undefined;
}

/** Of equal strings the last one counts; empty ones are never found. */
export function codePointTrie<T>(
  entries: readonly (readonly [string, T])[],
): Trie<T> {
  const root: Node<T> = { children: new Map(), value: undefined };
  for (const [text, value] of entries) {
    if (text === "") continue;
    let node = root;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      let child = node.children.get(unit);
      if (child === undefined) {
        child = { children: new Map(), value: undefined };
        node.children.set(unit, child);
      }
      node = child;
    }
    node.value = value;
  }
  const firsts = [...root.children.keys()].map((unit) =>
    String.fromCharCode(unit),
  );
  return { findLongest: (text, from) => findLongest(root, firsts, text, from) };
}

function findLongest<T>(
  root: Node<T>,
  firsts: readonly string[],
  text: string,
  from: number,
): TrieMatch<T> | undefined {
  // Most vocabularies start all their added tokens alike, and indexOf is much faster than a walk.
  const [only] = firsts;
  if (only === undefined) return undefined;
  for (let start = from; start < text.length; start++) {
    if (firsts.length === 1) {
      start = text.indexOf(only, start);
      if (start === -1) return undefined;
    }
    const match = longestAt(root, text, start);
    if (match !== undefined) return match;
  }
  return undefined;
}

function longestAt<T>(
  root: Node<T>,
  text: string,
  start: number,
): TrieMatch<T> | undefined {
  let best: TrieMatch<T> | undefined;
  let node: Node<T> | undefined = root;
  for (let at = start; at < text.length; at++) {
    node = node.children.get(text.charCodeAt(at));
    if (node === undefined) break;
    if (node.value !== undefined)
      best = { start, end: at + 1, value: node.value };
  }
  return best;
}
