/** What a client asked, past all parsing: token ids, a sampling record and an adapter by id. */
import type { LorikeetError } from "./errors.ts";
import type { Grammar } from "./grammar.ts";
import type { AdapterId } from "./ids.ts";
import type { FinishReason, SampledToken, Sampling } from "./sampling.ts";

export interface GenerationRequest {
  /** At least one id, each below the vocabulary's size. */
  readonly promptTokens: readonly number[];
  /** `null` for the base model. */
  readonly adapter: AdapterId | null;
  readonly sampling: Sampling;
  /** Whose request it is, for limits and fairness; empty without keys. */
  readonly tenant: string;
  /** What the output must be, compiled by the same runtime; left out or `null` for anything. */
  readonly grammar?: Grammar | null;
  /** Lower goes first, among requests that wait for the same adapter and between adapters; default 0. */
  readonly priority?: number;
  /** Pages are shared with requests of the same tenant and salt only; left out for those without. */
  readonly cacheSalt?: string;
  /** Longest time from submission to the last token; `null` for the server's own limit. */
  readonly timeoutMs: number | null;
}

/** A piece of one sequence's output: the text and tokens of one or more steps. */
export interface GenerationEvent {
  /** New text, always whole code points; may be empty while a stop string or a character is incomplete. */
  readonly text: string;
  readonly tokens: readonly SampledToken[];
  /** How likely each token of the prompt was, from its second on; with the first event of a sequence that asked for it. */
  readonly prompt?: readonly SampledToken[];
  /** Present on the last event only. */
  readonly finish: Finish | null;
}

export interface Finish {
  readonly reason: FinishReason;
  /** The stop string or user's stop token that ended it; `null` for the model's own end token and every other reason. */
  readonly stopReason: string | number | null;
  /** Present when `reason` is `error`. */
  readonly error: LorikeetError | null;
  readonly usage: Usage;
  readonly timing: RequestTiming;
}

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** Of the prompt's, those that had been computed for others before; left out where it is not known. */
  readonly cachedTokens?: number;
}

/** Milliseconds spent in each part of a request's life. */
export interface RequestTiming {
  readonly queueMs: number;
  readonly adapterMs: number;
  readonly prefillMs: number;
  readonly decodeMs: number;
}
