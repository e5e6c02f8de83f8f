/** What the HTTP layer is given. */
import type { Clock } from "../core/clock.ts";
import type { ChatEncoder } from "../runtime/chat.ts";
import type { Runtime } from "../runtime/runtime.ts";
import type { Access } from "./access.ts";
import type { EventFeeds } from "./event-feeds.ts";
import type { BodyLimits } from "./json-body.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { AdapterMetrics } from "./metrics/adapter-metrics.ts";
import type { ClientMetrics } from "./metrics/client-metrics.ts";
import type { RequestMetrics } from "./metrics/request-metrics.ts";
import type { AnswerListener } from "./telemetry/answer-record.ts";

export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface HttpDependencies {
  readonly runtime: Runtime;
  readonly encodeChat: ChatEncoder;
  readonly clock: Clock;
  readonly log: Log;
  readonly access: Access;
  readonly live: LiveStreams;
  readonly feeds: EventFeeds;
  readonly metrics: RequestMetrics;
  readonly adapterMetrics: AdapterMetrics;
  readonly clientMetrics: ClientMetrics;
  readonly health: Health;
  /** Hears of every answer when it is over. */
  readonly onAnswer: AnswerListener;
  readonly bodyLimits: BodyLimits;
  /** Names that mean the base model, the first of them shown to clients; at least one. */
  readonly baseNames: readonly [string, ...string[]];
  readonly version: string;
  /** Unix seconds at which the base model was opened. */
  readonly created: number;
  /** Longest wait of a stream's headers for its first event. */
  readonly headersAfterMs: number;
  /**
   * Lets one request stay silent for longer than the server's idle timeout.
   *
   * @returns what puts the timeout back, without which the connection would never time out again
   */
  readonly keepOpen: KeepOpen;
}

export type KeepOpen = (request: Request) => () => void;

export class Health {
  isDraining = false;
  /** A backend that stopped working does not come back: the process should be replaced. */
  hasFailed = false;
}
