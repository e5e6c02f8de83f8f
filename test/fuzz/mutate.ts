/** Changes to bytes that readers of lengths, offsets and counts are most likely to trip over. */
import type { Random } from "./random.ts";

const EDGES = [0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 512, 4096, 0x100000];

/** A copy with one to four changes, mostly one. */
export function mutate(bytes: Uint8Array, random: Random, others: readonly Uint8Array[]): Uint8Array {
  let changed = new Uint8Array(bytes);
  for (let count = random.oneIn(3) ? 1 + random.below(4) : 1; count > 0; count--) changed = mutateOnce(changed, random, others);
  return changed;
}

function mutateOnce(bytes: Uint8Array<ArrayBuffer>, random: Random, others: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const at = random.below(bytes.length);
  switch (random.below(10)) {
    case 0:
    case 1:
      if (bytes.length > 0) bytes[at]! ^= 1 << random.below(8);
      return bytes;
    case 2:
      if (bytes.length > 0) bytes[at] = random.pick(EDGES);
      return bytes;
    case 3:
    case 4: {
      const width = random.pick([2, 4, 8]);
      if (at + width > bytes.length) return bytes;
      const near = new DataView(bytes.buffer).getUint16(at, true) + random.below(5) - 2;
      let value = random.oneIn(2) ? random.pick(EDGES) : near;
      for (let i = 0; i < width; i++, value = Math.floor(value / 256)) bytes[at + i] = value;
      return bytes;
    }
    case 5:
      return bytes.slice(0, at);
    case 6:
      return splice(bytes, at, random.below(16), new Uint8Array(0));
    case 7:
      return splice(bytes, at, 0, Uint8Array.from({ length: 1 + random.below(8) }, () => random.next()));
    case 8: {
      const from = random.below(bytes.length);
      return splice(bytes, at, random.oneIn(2) ? 0 : 64, bytes.subarray(from, from + random.below(128)));
    }
    default: {
      const other = random.pick(others);
      const from = random.below(other.length);
      return splice(bytes, at, random.below(256), other.subarray(from, from + random.below(256)));
    }
  }
}

function splice(bytes: Uint8Array, at: number, remove: number, insert: Uint8Array): Uint8Array<ArrayBuffer> {
  const rest = bytes.subarray(Math.min(bytes.length, at + remove));
  const result = new Uint8Array(at + insert.length + rest.length);
  result.set(bytes.subarray(0, at));
  result.set(insert, at);
  result.set(rest, at + insert.length);
  return result;
}

export const noise = (random: Random, maxBytes: number): Uint8Array => Uint8Array.from({ length: random.below(maxBytes) }, () => random.next());
