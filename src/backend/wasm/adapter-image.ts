/**
 * An adapter as it will lie in device memory: panels, with offsets in place of addresses.
 *
 *   [SITE and DELTA records of every site][A of site 0][B of its deltas, each with its bias or gains]...[A of site 1]...
 */
import type { AdapterImage } from "../backend.ts";
import type { SiteId } from "../../model/program.ts";
import { DELTA, DELTA_WORDS, SITE, SITE_WORDS } from "./layout.ts";

export interface WasmAdapterImage extends AdapterImage {
  /** Matrices are in place; records are written by `attachImage`, which knows the address. */
  readonly bytes: Uint8Array;
  readonly sites: readonly ImageSite[];
  /** Most ranks at one site: floats of a shrunk row. */
  readonly maxTotalRank: number;
  readonly maxRank: number;
  readonly hasGains: boolean;
}

export interface ImageSite {
  readonly site: SiteId;
  readonly format: number;
  readonly totalRank: number;
  /** Byte offsets within the image. */
  readonly record: number;
  readonly a: number;
  readonly expandPanels: number;
  readonly deltas: readonly ImageDelta[];
}

export interface ImageDelta {
  readonly rankOffset: number;
  readonly rank: number;
  readonly outOffset: number;
  readonly width: number;
  readonly scale: number;
  readonly b: number;
  /** Float32 numbers; `null` for none. */
  readonly bias: number | null;
  /** Float32 numbers; `null` for none. */
  readonly gain: number | null;
}

export const siteRecordBytes = (numDeltas: number): number => (SITE_WORDS + numDeltas * DELTA_WORDS) * 4;

/**
 * Copies an image to `address` and points the slot's sites at it.
 *
 * @param siteTable the slot's row of the site table: one address per site of the program
 */
export function attachImage(
  memory: WebAssembly.Memory,
  address: number,
  image: WasmAdapterImage,
  siteTable: Uint32Array,
): void {
  new Uint8Array(memory.buffer, address, image.bytes.length).set(image.bytes);
  for (const site of image.sites) {
    const at = address + site.record;
    const numWords = siteRecordBytes(site.deltas.length) / 4;
    const words = new Uint32Array(memory.buffer, at, numWords);
    const floats = new Float32Array(memory.buffer, at, numWords);
    words[SITE.format] = site.format;
    words[SITE.totalRank] = site.totalRank;
    words[SITE.a] = address + site.a;
    words[SITE.numDeltas] = site.deltas.length;
    words[SITE.expandPanels] = site.expandPanels;
    words[SITE.hasGains] = site.deltas.some(({ gain }) => gain !== null) ? 1 : 0;
    site.deltas.forEach((delta, i) => {
      const to = SITE_WORDS + i * DELTA_WORDS;
      words[to + DELTA.rankOffset] = delta.rankOffset;
      words[to + DELTA.rank] = delta.rank;
      words[to + DELTA.outOffset] = delta.outOffset;
      words[to + DELTA.width] = delta.width;
      floats[to + DELTA.scale] = delta.scale;
      words[to + DELTA.b] = address + delta.b;
      words[to + DELTA.bias] = delta.bias === null ? 0 : address + delta.bias;
      words[to + DELTA.gain] = delta.gain === null ? 0 : address + delta.gain;
    });
    siteTable[site.site] = at;
  }
}
