/** The pool as cells of a picture: each is an extent or, where there are too many, some that follow each other. */

export interface PoolCells {
  /** Extents that one cell stands for; the last may have fewer. */
  readonly extentsPerCell: number;
  /** In the pool's order: which holder has most of the cell's extents; `null` where all are free. */
  readonly holders: readonly (number | null)[];
}

export const MAX_CELLS = 1024;

/**
 * @param heldPages of each holder, none twice
 * @complexity O(pages)
 */
export function poolCells(numPages: number, heldPages: readonly (readonly number[])[]): PoolCells {
  const extentsPerCell = Math.max(1, Math.ceil(numPages / MAX_CELLS));
  const holders = Array.from({ length: Math.ceil(numPages / extentsPerCell) }, (): number | null => null);
  const most = new Uint32Array(holders.length);
  for (const [holder, pages] of heldPages.entries()) {
    const counts = new Map<number, number>();
    for (const page of pages) {
      const cell = Math.floor(page / extentsPerCell);
      counts.set(cell, (counts.get(cell) ?? 0) + 1);
    }
    for (const [cell, count] of counts) {
      if (count <= most[cell]!) continue;
      most[cell] = count;
      holders[cell] = holder;
    }
  }
  return { extentsPerCell, holders };
}
