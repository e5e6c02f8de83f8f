/** DoRA's gains, from the base weights as the device holds them or the adapter's own in their place: once per adapter. */
import { AdapterError } from "../../core/errors.ts";
import type { LoraDelta } from "../../lora/adapter-weights.ts";
import type { LoraSite } from "../../model/program.ts";
import type { ImageSite } from "./adapter-image.ts";
import { PANEL_ROWS } from "./formats.ts";
import type { Panels, StagingMemory } from "./staging-memory.ts";

export interface GainTask {
  readonly site: LoraSite;
  readonly delta: LoraDelta;
  /** Where its A and B already lie in the image. */
  readonly placed: ImageSite;
  readonly index: number;
  readonly image: Uint8Array;
  readonly base: Panels;
  /** Row of the base matrix that the first output is; 0 for an embedding. */
  readonly firstRow: number;
}

/**
 * @returns `[width]`
 * @throws {AdapterError} `adapter_invalid` for a changed row without length
 */
export async function doraGains(staging: StagingMemory, task: GainTask): Promise<Float32Array> {
  const gains = task.site.kind === "embedding" ? await embeddingGains(staging, task) : await linearGains(staging, task);
  const bad = gains.findIndex((gain) => !Number.isFinite(gain));
  if (bad === -1) return gains;
  throw new AdapterError("adapter_invalid", `the adapter's changed weights of ${task.site.name} have length 0 in row ${task.delta.offset + bad}, which no magnitude can divide`);
}

/** A panel of the base at a time, in a copy beside the adapter's matrices: the running pool is left alone. */
async function linearGains(staging: StagingMemory, { site, delta, placed, index, image, base, firstRow }: GainTask): Promise<Float32Array> {
  const { exports } = staging;
  const { rank, width, scale } = delta;
  const { a, totalRank, format } = placed;
  const { b, rankOffset } = placed.deltas[index]!;
  const k = site.inWidth;
  const aBytes = exports.matrix_bytes(format, totalRank, k) >>> 0;
  const bBytes = exports.matrix_bytes(format, width, rank) >>> 0;
  const panelBytes = exports.matrix_bytes(base.format, PANEL_ROWS, k) >>> 0;
  const at = staging.reserve({
    panel: panelBytes, a: aBytes, b: bBytes, aRows: rank * k * 4, magnitude: width * 4, gain: width * 4, scratch: (k + rank) * 4,
  });
  staging.bytes(at.a, aBytes).set(image.subarray(a, a + aBytes));
  staging.bytes(at.b, bBytes).set(image.subarray(b, b + bBytes));
  staging.floats(at.magnitude, width).set(delta.magnitude!);
  for (let row = 0; row < rank; row++) exports.panel_read_row(format, at.a, totalRank, k, rankOffset + row, at.aRows + row * k * 4);
  for (let done = 0; done < width; ) {
    const row0 = (firstRow + done) % PANEL_ROWS;
    const first = firstRow + done - row0;
    const panelRows = Math.min(PANEL_ROWS, base.rows - first);
    const numRows = Math.min(panelRows - row0, width - done);
    copyPanel(staging, base, first, panelRows, k, at.panel);
    exports.dora_gains(
      base.format, at.panel, panelRows, k, row0, numRows, at.aRows, rank, format, at.b, width, done,
      scale, at.magnitude + done * 4, at.gain + done * 4, at.scratch,
    );
    done += numRows;
    await staging.pause();
  }
  return staging.floats(at.gain, width).slice();
}

/** The outputs of an embedding are columns of its matrix, so squares are summed over its rows. */
async function embeddingGains(staging: StagingMemory, { site, delta, placed, index, image, base }: GainTask): Promise<Float32Array> {
  const { exports } = staging;
  const { rank, width, scale } = delta;
  const { a, format } = placed;
  const { b } = placed.deltas[index]!;
  const numTokens = site.inWidth;
  const aBytes = exports.matrix_bytes(format, rank, numTokens) >>> 0;
  const bBytes = exports.matrix_bytes(format, width, rank) >>> 0;
  const at = staging.reserve({
    panel: exports.matrix_bytes(base.format, PANEL_ROWS, width) >>> 0, a: aBytes, b: bBytes, bRows: width * rank * 4,
    sums: width * 8, magnitude: width * 4, gain: width * 4, scratch: (width + rank) * 4,
  });
  staging.bytes(at.a, aBytes).set(image.subarray(a, a + aBytes));
  staging.bytes(at.b, bBytes).set(image.subarray(b, b + bBytes));
  staging.floats(at.magnitude, width).set(delta.magnitude!);
  staging.bytes(at.sums, width * 8).fill(0);
  for (let row = 0; row < width; row++) exports.panel_read_row(format, at.b, width, rank, row, at.bRows + row * rank * 4);
  for (let first = 0; first < numTokens; first += PANEL_ROWS) {
    const panelRows = Math.min(PANEL_ROWS, numTokens - first);
    copyPanel(staging, base, first, panelRows, width, at.panel);
    exports.dora_column_squares(base.format, at.panel, panelRows, width, at.bRows, rank, format, at.a, numTokens, first, scale, at.sums, at.scratch);
    await staging.pause();
  }
  exports.dora_column_gains(width, at.sums, at.magnitude, at.gain);
  return staging.floats(at.gain, width).slice();
}

function copyPanel(staging: StagingMemory, base: Panels, first: number, rows: number, cols: number, to: number): void {
  const from = (first / PANEL_ROWS) * (staging.exports.matrix_bytes(base.format, PANEL_ROWS, cols) >>> 0);
  const numBytes = staging.exports.matrix_bytes(base.format, rows, cols) >>> 0;
  staging.bytes(to, numBytes).set(base.bytes.subarray(from, from + numBytes));
}
