/** What one run sends, and when: everything random is drawn before the clock starts. */

export interface TraceRow {
  /** Milliseconds from the start at which it is sent in an open loop. */
  readonly atMs: number;
  readonly prompt: string | readonly number[];
  readonly outputTokens: number;
  /** Index into the run's adapters; `null` for the base model. */
  readonly adapter: number | null;
}

export type Trace = readonly TraceRow[];
