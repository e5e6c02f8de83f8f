/** How far the reading of a model's weights has come, as a person sees it; nothing where it takes a moment only. */
import type { WeightProgress } from "./backend/read-weights.ts";
import { bytes, type ProgressOutput } from "./download-progress.ts";

/** Before the first line, between two lines where there is no terminal, and between two changes of the line where there is one. */
const QUIET_MS = 1_000;
const PLAIN_MS = 10_000;
const LIVE_MS = 100;
const ERASE = "\r\u001b[2K";

export function weightsProgress(output: ProgressOutput, nowMs: () => number = () => performance.now()): (progress: WeightProgress) => void {
  const isLive = output.isTTY === true;
  let startMs: number | null = null;
  let toldMs = -Infinity;
  return ({ numBytes, totalBytes }) => {
    const now = nowMs();
    startMs ??= now;
    const isDone = numBytes === totalBytes;
    const pauseMs = isDone ? 0 : isLive ? LIVE_MS : PLAIN_MS;
    if (now - startMs < QUIET_MS || now - toldMs < pauseMs) return;
    toldMs = now;
    const perSecond = `${bytes((1000 * numBytes) / (now - startMs))}/s`;
    const text = isDone
      ? `weights read: ${bytes(totalBytes)} in ${((now - startMs) / 1000).toFixed(1)} s, ${perSecond}`
      : `reading weights: ${bytes(numBytes)} of ${bytes(totalBytes)}, ${Math.floor((100 * numBytes) / totalBytes)} %, ${perSecond}`;
    output.write(`${isLive ? ERASE : ""}${text}${isLive && !isDone ? "" : "\n"}`);
  };
}
