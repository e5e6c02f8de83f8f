/** The course of a run in equal stretches of time. */
import type { RequestRecord } from "../load/drive.ts";
import { least, most } from "../report/percentiles.ts";

export interface Moment {
  /** Seconds from the first request to the middle of the stretch. */
  readonly atS: number;
  readonly tokensPerSecond: number;
  /** Requests sent and without a token, and those that get tokens, both at the end of the stretch. */
  readonly waiting: number;
  readonly decoding: number;
}

const MOST_MOMENTS = 120;
/** Shorter stretches show steps, not a course. */
const LEAST_MS = 100;

export function timelineOf(records: readonly RequestRecord[]): Moment[] {
  if (records.length === 0) return [];
  const startMs = least(records.map(({ sentMs }) => sentMs));
  const endMs = most(records.map((record) => record.endMs));
  const numMoments = Math.min(MOST_MOMENTS, Math.max(1, Math.floor((endMs - startMs) / LEAST_MS)));
  const stretchMs = Math.max(1, endMs - startMs) / numMoments;
  const stretchOf = (ms: number): number => Math.min(numMoments - 1, Math.max(0, Math.floor((ms - startMs) / stretchMs)));
  const tokens = new Float64Array(numMoments);
  const waiting = new Int32Array(numMoments);
  const decoding = new Int32Array(numMoments);
  for (const { sentMs, firstMs, endMs: doneMs, pieces } of records) {
    for (const piece of pieces) tokens[stretchOf(piece.atMs)]! += piece.tokens;
    waiting[stretchOf(sentMs)]!++;
    waiting[stretchOf(firstMs ?? doneMs)]!--;
    if (firstMs === null) continue;
    decoding[stretchOf(firstMs)]!++;
    decoding[stretchOf(doneMs)]!--;
  }
  let numWaiting = 0;
  let numDecoding = 0;
  return Array.from(tokens, (count, i) => ({
    atS: ((i + 0.5) * stretchMs) / 1000,
    tokensPerSecond: (1000 * count) / stretchMs,
    waiting: (numWaiting += waiting[i]!),
    decoding: (numDecoding += decoding[i]!),
  }));
}
