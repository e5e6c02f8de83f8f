/** Downloads as a person sees them: one line that changes in a terminal, a line now and then elsewhere. */
import type { SourceHooks, SourceProgress } from "./sources/sources.ts";

export interface ProgressOutput {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** Between two lines about one file where there is no terminal, and between two changes of the line where there is one. */
const PLAIN_MS = 10_000;
const LIVE_MS = 100;
const ERASE = "\r\u001b[2K";

export function downloadProgress(output: ProgressOutput, nowMs: () => number = () => performance.now()): SourceHooks {
  const isLive = output.isTTY === true;
  /** Files under way, each with the time of its last line. */
  const active = new Map<string, SourceProgress & { toldMs: number }>();
  let liveMs = -Infinity;
  const line = (text: string): void => void output.write(`${isLive ? ERASE : ""}${text}\n`);
  return {
    onNote: (note) => line(`note: ${note}`),
    onProgress: (progress) => {
      const key = `${progress.source} ${progress.file}`;
      const now = nowMs();
      if (progress.isDone) {
        active.delete(key);
        line(`downloaded ${named(progress)} (${bytes(progress.numBytes)})`);
        return;
      }
      // What is there within a moment gets its one line at its end.
      const toldMs = active.get(key)?.toldMs ?? now;
      const isDue = !isLive && now - toldMs >= PLAIN_MS;
      active.set(key, { ...progress, toldMs: isDue ? now : toldMs });
      if (isDue) line(`downloading ${named(progress)}: ${share(progress)}`);
      if (isLive && now - liveMs >= LIVE_MS) {
        liveMs = now;
        output.write(ERASE + clipped(liveLine([...active.values()]), output.columns ?? 0));
      }
    },
  };
}

function liveLine(files: readonly SourceProgress[]): string {
  const [first] = files;
  if (files.length === 1) return `downloading ${named(first!)}: ${share(first!)}`;
  const numBytes = files.reduce((sum, file) => sum + file.numBytes, 0);
  const isKnown = files.every(({ totalBytes }) => totalBytes !== null);
  const totalBytes = isKnown ? files.reduce((sum, file) => sum + (file.totalBytes ?? 0), 0) : null;
  return `downloading ${files.length} files of ${first!.source}: ${share({ numBytes, totalBytes })}`;
}

const named = ({ source, file }: SourceProgress): string => `${source}: ${file}`;

const share = ({ numBytes, totalBytes }: Pick<SourceProgress, "numBytes" | "totalBytes">): string =>
  totalBytes === null || totalBytes === 0 ? bytes(numBytes) : `${bytes(numBytes)} of ${bytes(totalBytes)}, ${Math.floor((100 * numBytes) / totalBytes)} %`;

/** A width of 0 is one that nobody knows. */
const clipped = (text: string, columns: number): string => (columns > 0 && text.length >= columns ? text.slice(0, columns - 1) : text);

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

export function bytes(count: number): string {
  const power = Math.min(UNITS.length - 1, count < 1000 ? 0 : Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** power;
  return `${power === 0 ? value : value.toFixed(1)} ${UNITS[power]}`;
}
