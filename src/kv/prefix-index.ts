/**
 * Which pages hold which beginnings of sequences.
 *
 * A tree: each page hangs on the page before it under a key that says all of what it holds, so equal paths are equal
 * contents, by comparison and not by hash. Trees of different scopes never meet.
 */
import type { PageId } from "../core/ids.ts";

export interface PrefixNode {
  readonly page: PageId;
  readonly key: string;
  /** `null` for a first page. */
  readonly parent: PrefixNode | null;
  readonly scope: string;
  /** Pages behind it, by key; made with the first of them, since most pages have one or none. */
  next: Map<string, PrefixNode> | null;
  /** Cleared once it is found no longer. */
  isIndexed: boolean;
}

export class PrefixIndex {
  readonly #firsts = new Map<string, Map<string, PrefixNode>>();
  readonly #byPage = new Map<PageId, PrefixNode>();

  get size(): number {
    return this.#byPage.size;
  }

  /** The longest path along `keys`. @complexity O(path) */
  find(scope: string, keys: Iterable<string>): PrefixNode[] {
    const path: PrefixNode[] = [];
    let next = this.#firsts.get(scope);
    for (const key of keys) {
      const node = next?.get(key);
      if (node === undefined) return path;
      path.push(node);
      next = node.next ?? undefined;
    }
    return path;
  }

  /**
   * @param parent of the page before, indexed; `null` for a first page
   * @returns the node of `page`, or of another page that holds the same and was first
   */
  insert(scope: string, parent: PrefixNode | null, key: string, page: PageId): PrefixNode {
    const siblings = parent === null ? this.#firstsOf(scope) : (parent.next ??= new Map());
    const existing = siblings.get(key);
    if (existing !== undefined) return existing;
    const node: PrefixNode = { page, key, parent, scope, next: null, isIndexed: true };
    siblings.set(key, node);
    this.#byPage.set(page, node);
    return node;
  }

  /** Forgets a page, and all behind it, which could not be found any more. @returns their pages, this one first */
  drop(page: PageId): PageId[] {
    const node = this.#byPage.get(page);
    if (node === undefined) return [page];
    const siblings = node.parent === null ? this.#firsts.get(node.scope)! : node.parent.next!;
    siblings.delete(node.key);
    if (node.parent === null && siblings.size === 0) this.#firsts.delete(node.scope);
    const dropped: PageId[] = [];
    for (const rest = [node]; rest.length > 0; ) {
      const each = rest.pop()!;
      each.isIndexed = false;
      this.#byPage.delete(each.page);
      dropped.push(each.page);
      if (each.next !== null) rest.push(...each.next.values());
    }
    return dropped;
  }

  #firstsOf(scope: string): Map<string, PrefixNode> {
    const known = this.#firsts.get(scope) ?? new Map<string, PrefixNode>();
    this.#firsts.set(scope, known);
    return known;
  }
}
