/** Attaches adapters where a runtime would: at the high end of the pool, behind the pages that tests name by number. */
import type { AdapterImage, Backend } from "../../src/backend/backend.ts";
import { ExtentPool } from "../../src/core/extent-pool.ts";
import type { SlotId } from "../../src/core/ids.ts";

interface Room {
  readonly extents: ExtentPool;
  readonly runs: Map<SlotId, { readonly start: number; readonly length: number }>;
}

const rooms = new WeakMap<Backend, Room>();

const roomOf = (backend: Backend): Room => {
  const { numExtents, numPages } = backend.info;
  return rooms.getOrInsertComputed(backend, () => ({ extents: new ExtentPool(numExtents - numPages), runs: new Map() }));
};

/** @throws what `backend.attach` throws, the room given back */
export async function attach(backend: Backend, slot: SlotId, image: AdapterImage): Promise<void> {
  const { numPages, extentBytes } = backend.info;
  const { extents, runs } = roomOf(backend);
  const length = Math.max(1, Math.ceil(image.numBytes / extentBytes));
  const start = extents.takeRun(length);
  if (start === null) throw new Error(`a test asks for ${length} extents where no such run is free`);
  try {
    await backend.attach(slot, numPages + start, image);
    runs.set(slot, { start, length });
  } catch (error) {
    extents.free(start, length);
    throw error;
  }
}

export function detach(backend: Backend, slot: SlotId): void {
  const { extents, runs } = roomOf(backend);
  backend.detach(slot);
  const run = runs.get(slot);
  if (run === undefined) return;
  runs.delete(slot);
  extents.free(run.start, run.length);
}
