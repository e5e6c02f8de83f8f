/** What a load is sent to: a server of any make, or a runtime in this process. */

export interface LoadRequest {
  readonly prompt: string | readonly number[];
  /** End tokens do not shorten it. */
  readonly outputTokens: number;
  /** Index into the target's adapters; `null` for the base model. */
  readonly adapter: number | null;
}

export interface Answered {
  /** `null` where the target does not tell. */
  readonly promptTokens: number | null;
  readonly outputTokens: number;
  readonly text: string;
}

export interface Target {
  readonly model: string;
  readonly adapters: readonly string[];
  /**
   * Sends one request and reads its answer to the end.
   *
   * @param onTokens called as tokens arrive, with how many
   * @throws an error with a message for people where there is no whole answer
   */
  send(request: LoadRequest, onTokens: (count: number) => void, signal: AbortSignal): Promise<Answered>;
  /** Counters of this moment; `null` where the target has none. */
  counters(): Promise<TargetCounters | null>;
}

/** They only grow, but for the gauge `slotsUsed`. */
export interface TargetCounters {
  readonly adapterLoads: number;
  readonly adapterEvictions: number;
  readonly slotsUsed: number;
  readonly steps: number;
  readonly preemptions: number;
  /** Time in native code. */
  readonly computeMs: number;
}
