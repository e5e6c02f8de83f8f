/** A run as a person sees it: one line that changes in a terminal, a line now and then elsewhere. */
import type { Progress } from "./load/drive.ts";

export interface ProgressOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const PLAIN_MS = 10_000;
const LIVE_MS = 100;
const ERASE = "\r\u001b[2K";
const BAR = 20;

export function benchProgress(output: ProgressOutput, name: string): (progress: Progress) => void {
  const isLive = output.isTTY === true;
  let toldMs = isLive ? -Infinity : 0;
  return (progress) => {
    const { elapsedMs, ended, total } = progress;
    const isLast = ended === total;
    if (!isLast && elapsedMs - toldMs < (isLive ? LIVE_MS : PLAIN_MS)) return;
    toldMs = elapsedMs;
    const text = lineOf(name, progress, isLive);
    if (!isLive) output.write(`${text}\n`);
    // A line as wide as the terminal would wrap, and a width of 0 is one that nobody knows.
    else output.write(ERASE + (output.columns ? text.slice(0, output.columns - 1) : text) + (isLast ? "\n" : ""));
  };
}

function lineOf(name: string, { total, sent, ended, failed, outputTokens, elapsedMs }: Progress, isLive: boolean): string {
  const filled = total === 0 ? BAR : Math.floor((BAR * ended) / total);
  const bar = isLive ? `${"█".repeat(filled)}${"░".repeat(BAR - filled)} ` : "";
  const seconds = elapsedMs / 1000;
  const speed = seconds === 0 ? 0 : outputTokens / seconds;
  const failures = failed === 0 ? "" : `, ${failed} failed`;
  return `${name}: ${bar}${ended} of ${total} answered${failures}, ${sent - ended} under way, ${speed.toFixed(0)} tokens/s, ${seconds.toFixed(1)} s`;
}
