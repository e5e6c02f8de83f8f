/**
 * An adapter as it will lie in device memory: panels, with offsets in place of addresses.
 *
 *   [SITE, REPLACEMENT and DELTA records of every site]
 *   [A of site 0][B of its deltas, each with its bias or gains]...[its replaced rows, vectors]...[A of site 1]...
 */
import type { AdapterImage } from "../backend.ts";
import type { SiteId } from "../../model/program.ts";
import { DELTA, DELTA_WORDS, REPLACEMENT, REPLACEMENT_WORDS, SITE, SITE_WORDS } from "./layout.ts";

export interface WasmAdapterImage extends AdapterImage {
  /** Matrices are in place; records are written by `attachImage`, which knows the address. */
  readonly bytes: Uint8Array;
  readonly sites: readonly ImageSite[];
  /** Most ranks at one site: floats of a shrunk row. */
  readonly maxTotalRank: number;
  readonly maxRank: number;
  /** Whether a site needs what outputs held before. */
  readonly holds: boolean;
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
  readonly holds: boolean;
  readonly replacesAll: boolean;
  readonly replacements: readonly ImageRows[];
  readonly tokens: ImageTokens | null;
  /** Float32 vectors: what is added at last, and a norm's own weight. */
  readonly shift: number | null;
  readonly own: number | null;
}

/** A matrix of replaced rows. */
export interface ImageRows {
  /** The first of them in the base's weight. */
  readonly offset: number;
  readonly width: number;
  readonly format: number;
  readonly matrix: number;
}

export interface ImageTokens extends Pick<ImageRows, "format" | "matrix"> {
  /** Byte offset of the list, and its length. */
  readonly list: number;
  readonly count: number;
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

export const siteRecordBytes = (numReplacements: number, numDeltas: number): number =>
  (SITE_WORDS + numReplacements * REPLACEMENT_WORDS + numDeltas * DELTA_WORDS) * 4;

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
    const { deltas, replacements, tokens } = site;
    const at = address + site.record;
    const numWords = siteRecordBytes(replacements.length, deltas.length) / 4;
    const words = new Uint32Array(memory.buffer, at, numWords);
    const floats = new Float32Array(memory.buffer, at, numWords);
    const addressOf = (offset: number | null): number => (offset === null ? 0 : address + offset);
    const write = <F extends Readonly<Record<string, number>>>(to: number, layout: F, fields: Partial<Record<keyof F, number>>): void => {
      for (const [field, value] of Object.entries(fields)) words[to + layout[field]!] = value as number;
    };
    write(0, SITE, {
      format: site.format,
      totalRank: site.totalRank,
      a: address + site.a,
      numDeltas: deltas.length,
      expandPanels: site.expandPanels,
      holds: site.holds ? 1 : 0,
      numReplacements: replacements.length,
      replacesAll: site.replacesAll ? 1 : 0,
      shift: addressOf(site.shift),
      own: addressOf(site.own),
      tokens: addressOf(tokens?.list ?? null),
      numTokens: tokens?.count ?? 0,
      tokenRows: addressOf(tokens?.matrix ?? null),
      tokenFormat: tokens?.format ?? 0,
    });
    replacements.forEach(({ offset, width, format, matrix }, i) => {
      write(SITE_WORDS + i * REPLACEMENT_WORDS, REPLACEMENT, { outOffset: offset, width, format, matrix: address + matrix });
    });
    deltas.forEach((delta, i) => {
      const to = SITE_WORDS + replacements.length * REPLACEMENT_WORDS + i * DELTA_WORDS;
      const { rankOffset, rank, outOffset, width } = delta;
      write(to, DELTA, { rankOffset, rank, outOffset, width, b: address + delta.b, bias: addressOf(delta.bias), gain: addressOf(delta.gain) });
      floats[to + DELTA.scale] = delta.scale;
    });
    siteTable[site.site] = at;
  }
}
