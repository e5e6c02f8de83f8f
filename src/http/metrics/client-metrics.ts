/** What each client's requests came to: a client is an API key by its name. */
import type { ErrorCode } from "../../core/errors.ts";
import type { AnswerRecord } from "../telemetry/answer-record.ts";
import type { Exposition, Labels, Sample } from "./exposition.ts";

/** Most clients with labels of their own in a family; the rest are counted together. */
export const MAX_LABELLED_CLIENTS = 100;
/** A name that no client can have. */
const OTHERS = "(others)";

interface ClientUse {
  numSequences: number;
  promptTokens: number;
  generatedTokens: number;
  readonly refused: Map<ErrorCode, number>;
}

export class ClientMetrics {
  /** As many as there are keys. */
  readonly #uses = new Map<string, ClientUse>();

  /** Counts an answer that is over; one without a key is nobody's. */
  see({ client, usage, finishes }: Pick<AnswerRecord, "client" | "usage" | "finishes">): void {
    const use = this.#useOf(client);
    use.numSequences += finishes.length;
    use.promptTokens += usage.promptTokens;
    use.generatedTokens += usage.completionTokens;
  }

  /** Counts a request that was refused before it was queued. */
  refuse(client: string, code: ErrorCode): void {
    const { refused } = this.#useOf(client);
    refused.set(code, (refused.get(code) ?? 0) + 1);
  }

  write(out: Exposition): void {
    const byUse = [...this.#uses].filter(([client]) => client !== "").sort(([, a], [, b]) => b.numSequences - a.numSequences);
    const labelled = byUse.map(([client, use], i) => ({ client: i < MAX_LABELLED_CLIENTS ? client : OTHERS, use }));
    const family = (name: string, help: string, countsOf: (use: ClientUse) => readonly (readonly [Labels, number])[]): void => {
      const samples = labelled.flatMap(({ client, use }) => countsOf(use).map(([labels, value]): Required<Sample> => ({ labels: { client, ...labels }, value })));
      const summed = Map.groupBy(samples, ({ labels }) => JSON.stringify(labels)).values();
      out.counter(name, help, [...summed].map((same) => ({ labels: same[0]!.labels, value: same.reduce((sum, { value }) => sum + value, 0) })));
    };
    family("lorikeet_client_requests_total", "Sequences that are over, by client.", (use) => [[{}, use.numSequences]]);
    family("lorikeet_client_prompt_tokens_total", "Their prompt tokens.", (use) => [[{}, use.promptTokens]]);
    family("lorikeet_client_generation_tokens_total", "Their tokens generated.", (use) => [[{}, use.generatedTokens]]);
    family("lorikeet_client_refused_total", "Requests refused before they were queued, by client and error code.", (use) => [...use.refused].map(([code, count]) => [{ code }, count]));
  }

  #useOf(client: string): ClientUse {
    const known = this.#uses.get(client);
    if (known !== undefined) return known;
    const use = { numSequences: 0, promptTokens: 0, generatedTokens: 0, refused: new Map<ErrorCode, number>() };
    this.#uses.set(client, use);
    return use;
  }
}
