/** Sends a trace to a target and writes down when everything happened. */
import type { Trace, TraceRow } from "../workload/trace.ts";
import type { Target } from "./target.ts";

/** Times are milliseconds from the start of the run. */
export interface RequestRecord {
  readonly index: number;
  readonly adapter: number | null;
  /** When the trace wanted it sent; `null` in a closed loop, which sends when it can. */
  readonly dueMs: number | null;
  readonly sentMs: number;
  readonly firstMs: number | null;
  readonly endMs: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** When pieces of the answer arrived, and how many tokens each had. */
  readonly pieces: readonly { readonly atMs: number; readonly tokens: number }[];
  readonly text: string;
  /** What went wrong; `null` for a whole answer. */
  readonly error: string | null;
}

export interface DriveOptions {
  /** Requests under way at most, sent as earlier ones end; `null` to send each at its time. */
  readonly concurrency: number | null;
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
}

export interface Progress {
  readonly total: number;
  readonly sent: number;
  readonly ended: number;
  readonly failed: number;
  readonly outputTokens: number;
  readonly elapsedMs: number;
}

/** Timers are coarse: the last stretch before a request is due is spent turning the event loop. */
const SPIN_MS = 2;
/** Until an end of the run is heard while nothing is due. */
const HEARS_MS = 100;

/** @returns one record per row that was sent, in the order of the trace */
export async function drive(trace: Trace, target: Target, { concurrency, signal, onProgress }: DriveOptions): Promise<RequestRecord[]> {
  const records: RequestRecord[] = [];
  const startedMs = performance.now();
  const nowMs = (): number => performance.now() - startedMs;
  const count = { sent: 0, ended: 0, failed: 0, outputTokens: 0 };
  const tell = (): void => onProgress?.({ total: trace.length, ...count, elapsedMs: nowMs() });

  const send = async (row: TraceRow, index: number): Promise<void> => {
    const pieces: { atMs: number; tokens: number }[] = [];
    const sentMs = nowMs();
    count.sent++;
    let promptTokens = typeof row.prompt === "string" ? 0 : row.prompt.length;
    let outputTokens = 0;
    let text = "";
    let error: string | null = null;
    const onTokens = (tokens: number): void => {
      pieces.push({ atMs: nowMs(), tokens });
      count.outputTokens += tokens;
    };
    try {
      const answered = await target.send(row, onTokens, signal);
      promptTokens = answered.promptTokens ?? promptTokens;
      ({ outputTokens, text } = answered);
    } catch (thrown) {
      error = thrown instanceof Error ? thrown.message : String(thrown);
      outputTokens = pieces.reduce((sum, { tokens }) => sum + tokens, 0);
      count.failed++;
    }
    count.ended++;
    const dueMs = concurrency === null ? row.atMs : null;
    records.push({ index, adapter: row.adapter, dueMs, sentMs, firstMs: pieces[0]?.atMs ?? null, endMs: nowMs(), promptTokens, outputTokens, pieces, text, error });
    tell();
  };

  if (concurrency === null) {
    const under: Promise<void>[] = [];
    for (const [index, row] of trace.entries()) {
      await until(row.atMs, nowMs, signal);
      if (signal.aborted) break;
      under.push(send(row, index));
    }
    await Promise.all(under);
  } else {
    const rows = trace.entries();
    const worker = async (): Promise<void> => {
      for (const [index, row] of rows) {
        if (signal.aborted) return;
        await send(row, index);
      }
    };
    await Promise.all(Array.from({ length: Math.min(concurrency, trace.length) }, worker));
  }
  return records.sort((a, b) => a.index - b.index);
}

async function until(dueMs: number, nowMs: () => number, signal: AbortSignal): Promise<void> {
  for (let leftMs = dueMs - nowMs(); leftMs > 0 && !signal.aborted; leftMs = dueMs - nowMs()) {
    if (leftMs > SPIN_MS) await sleep(Math.min(leftMs - SPIN_MS, HEARS_MS));
    else await new Promise((resolve) => setImmediate(resolve));
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
