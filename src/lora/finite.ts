/** A scan for NaN and infinity: all ones in the exponent, in any of the three formats. */
import type { AdapterMatrix } from "./adapter-weights.ts";

const EXPONENT = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 } as const;

/** @returns index of the first element that is not finite, or `null` */
export function firstNonFinite(dtype: AdapterMatrix["dtype"], bytes: Uint8Array): number | null {
  const words = wordsOf(dtype, bytes);
  const mask = EXPONENT[dtype];
  for (let i = 0; i < words.length; i++) {
    if ((words[i]! & mask) === mask) return i;
  }
  return null;
}

/** Tensors in a file may start at any byte; typed arrays may not. A Buffer's `slice` would not copy. */
function wordsOf(dtype: AdapterMatrix["dtype"], bytes: Uint8Array): Uint32Array | Uint16Array {
  const size = dtype === "F32" ? 4 : 2;
  const aligned = bytes.byteOffset % size === 0 ? bytes : new Uint8Array(bytes);
  return dtype === "F32"
    ? new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
    : new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.length / 2);
}
