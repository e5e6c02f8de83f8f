/** Where the time of a request went, as it is told to clients. */
import type { RequestTiming } from "../../core/request.ts";

export interface Timeline {
  /** Waiting for a place in a step, the adapter being there. */
  readonly queue_ms: number;
  /** Waiting for the adapter to be on the device. */
  readonly adapter_ms: number;
  /** From the first step to the first token. */
  readonly prefill_ms: number;
  /** From the first token to the last. */
  readonly decode_ms: number;
}

export const timelineOf = ({ queueMs, adapterMs, prefillMs, decodeMs }: RequestTiming): Timeline => ({
  queue_ms: toMicros(queueMs),
  adapter_ms: toMicros(adapterMs),
  prefill_ms: toMicros(prefillMs),
  decode_ms: toMicros(decodeMs),
});

export const totalMs = ({ queueMs, adapterMs, prefillMs, decodeMs }: RequestTiming): number => queueMs + adapterMs + prefillMs + decodeMs;

/**
 * The timeline as a `Server-Timing` header, which browsers show; of the longest where there are several choices.
 *
 * @source W3C Server Timing
 */
export function serverTiming(timings: readonly RequestTiming[]): string | null {
  const [longest] = timings.toSorted((a, b) => totalMs(b) - totalMs(a));
  if (longest === undefined) return null;
  const { queue_ms, adapter_ms, prefill_ms, decode_ms } = timelineOf(longest);
  return `queue;dur=${queue_ms}, adapter;dur=${adapter_ms}, prefill;dur=${prefill_ms}, decode;dur=${decode_ms}`;
}

const toMicros = (ms: number): number => Math.round(ms * 1000) / 1000;
