/**
 * How evenly the two most asked for adapters were served while requests for both were under way.
 *
 * Service is VTC's: a prompt token counts 1, a generated one 2. The gap is the most that one got ahead of the other since
 * both began to be under way. Source: Sheng et al. 2024, "Fairness in Serving Large Language Models".
 */
import type { RequestRecord } from "../load/drive.ts";

const OUTPUT_PRICE = 2;

export interface Fairness {
  readonly adapters: readonly [string, string];
  /** Of each, while both had requests under way. */
  readonly service: readonly [number, number];
  readonly max_gap: number;
}

interface Event {
  readonly atMs: number;
  readonly client: 0 | 1;
  /** Change of the requests under way. */
  readonly requests: number;
  readonly service: number;
}

/** @returns `null` where requests named fewer than two adapters */
export function fairnessOf(records: readonly RequestRecord[], names: readonly string[]): Fairness | null {
  const groups = [...Map.groupBy(records.filter(({ adapter }) => adapter !== null), ({ adapter }) => adapter!)].sort(([a, one], [b, other]) => other.length - one.length || a - b);
  const [first, second] = groups;
  if (first === undefined || second === undefined) return null;
  const events = [...eventsOf(first[1], 0), ...eventsOf(second[1], 1)].sort((a, b) => a.atMs - b.atMs);
  const underWay = [0, 0];
  const service: [number, number] = [0, 0];
  let ahead = 0;
  let maxGap = 0;
  for (const event of events) {
    if (underWay[0]! > 0 && underWay[1]! > 0) {
      service[event.client] += event.service;
      ahead += event.client === 0 ? event.service : -event.service;
      maxGap = Math.max(maxGap, Math.abs(ahead));
    } else {
      ahead = 0;
    }
    underWay[event.client]! += event.requests;
  }
  const nameOf = (adapter: number): string => names[adapter] ?? String(adapter);
  return { adapters: [nameOf(first[0]), nameOf(second[0])], service: [Math.round(service[0]), Math.round(service[1])], max_gap: Math.round(maxGap) };
}

const eventsOf = (records: readonly RequestRecord[], client: 0 | 1): Event[] =>
  records.flatMap(({ dueMs, sentMs, firstMs, endMs, promptTokens, outputTokens, pieces }) => {
    // A token without text of its own may come in no piece, and only the count at the end tells of it.
    const told = pieces.reduce((sum, { tokens }) => sum + tokens, 0);
    const price = (OUTPUT_PRICE * outputTokens) / Math.max(1, told);
    return [
      { atMs: dueMs ?? sentMs, client, requests: 1, service: 0 },
      ...(firstMs === null ? [] : [{ atMs: firstMs, client, requests: 0, service: promptTokens }]),
      ...pieces.map(({ atMs, tokens }) => ({ atMs, client, requests: 0, service: price * tokens })),
      { atMs: endMs, client, requests: -1, service: 0 },
    ];
  });
