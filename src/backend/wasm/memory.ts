/** The layout of a linear memory, planned before it exists: regions are reserved, then the memory is made. */
import { RESERVED_BYTES } from "./module.ts";

/** Vectors never straddle a cache line when every region starts on one. */
const ALIGNMENT = 64;
export const align = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

export class MemoryPlan {
  #end = RESERVED_BYTES;

  /** @returns the byte offset of a region of `numBytes` */
  reserve(numBytes: number): number {
    const at = this.#end;
    this.#end = at + align(numBytes);
    return at;
  }

  get end(): number {
    return this.#end;
  }
}
