/** What the HTTP layer is given. */
import type { Clock } from "../core/clock.ts";
import type { Runtime } from "../runtime/runtime.ts";
import type { Access } from "./access.ts";
import type { BodyLimits } from "./json-body.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { RequestMetrics } from "./metrics/request-metrics.ts";
import type { ChatTurn } from "./openai/chat-body.ts";

export interface Log {
  info(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface HttpDependencies {
  readonly runtime: Runtime;
  /**
   * Prompt tokens of a conversation.
   *
   * @throws {RequestError} `invalid_request` when the model takes no chat or its template refuses this one
   */
  readonly encodeChat: EncodeChat;
  readonly clock: Clock;
  readonly log: Log;
  readonly access: Access;
  readonly live: LiveStreams;
  readonly metrics: RequestMetrics;
  readonly health: Health;
  readonly bodyLimits: BodyLimits;
  /** Names that mean the base model, the first of them shown to clients; at least one. */
  readonly baseNames: readonly [string, ...string[]];
  readonly version: string;
  /** Unix seconds at which the base model was opened. */
  readonly created: number;
  /** Longest wait of a stream's headers for its first event. */
  readonly headersAfterMs: number;
  /** Lets one request stay silent for longer than the server's idle timeout. */
  readonly keepOpen: (request: Request) => void;
}

export type EncodeChat = (
  messages: readonly ChatTurn[],
  options: { readonly addGenerationPrompt: boolean },
) => readonly number[];

export class Health {
  isDraining = false;
  /** A backend that stopped working does not come back: the process should be replaced. */
  hasFailed = false;
}
