/**
 * The record of one request under way: its tokens, its pages and its place in the schedule.
 *
 * Its owner is the schedule table; the engine writes `length`, `computed` and `ending` when a step's result is there.
 */
import type { LorikeetError } from "../core/errors.ts";
import type { AdapterId, PageId, RequestId } from "../core/ids.ts";
import type { Finish } from "../core/request.ts";
import type { FinishReason, SampledToken, Sampling } from "../core/sampling.ts";
import type { TokenAdjustment } from "../core/step.ts";
import type { Lane } from "./lanes.ts";
import type { Indexed } from "./prefixes.ts";

/** Why a sequence is to end; it is retired when no step names it. */
export interface Ending {
  readonly reason: FinishReason;
  readonly stopReason: string | number | null;
  readonly error: LorikeetError | null;
}

/** What becomes of a sequence's tokens; the engine's part of the record. */
export interface SequenceOutput {
  /** Logits to change before the next token is picked; the array is reused from step to step. */
  adjustments(): readonly TokenAdjustment[];
  /** Whether the tokens that may come next are known; until then the sequence sits out. Left out for always. */
  readonly isReady?: boolean;
  /** Whether adjustments or allowed tokens hang on the tokens before, so that none may be awaited. Left out for no. */
  readonly needsTokens?: boolean;
  /** One bit per token that may be picked next; left out or `null` when all may. */
  readonly allowed?: Int32Array | null;
  /** Takes the next token. @returns how the sequence ends with it, or `null` */
  accept(token: SampledToken): Ending | null;
  /** Takes how likely tokens of the prompt were, in order. */
  score?(tokens: readonly SampledToken[]): void;
  /** Lets go what was held back and closes the stream. Called once. */
  finish(finish: Finish): void;
}

export interface Sequence {
  readonly id: RequestId;
  /** `null` for the base model. */
  readonly adapter: AdapterId | null;
  /** Whose request it is; shares are measured by it. */
  readonly tenant: string;
  readonly sampling: Sampling;
  readonly output: SequenceOutput;
  readonly promptLength: number;
  /** Order of submission, over all adapters. */
  readonly arrival: number;
  /** Lower starts first; default 0. */
  readonly priority?: number;
  readonly submittedMs: number;
  /** `Infinity` for none. */
  readonly deadlineMs: number;

  /** Prompt and generated tokens; the first `length` count. */
  tokens: Int32Array;
  length: number;
  /** Positions whose next token has been scored, of a prompt whose tokens are. */
  scored: number;
  /** Positions whose KV is in the pages, by steps that are over. */
  computed: number;
  /** The same with the steps under way: what is left to compute begins here. */
  scheduled: number;
  /** Tokens that steps under way pick; they come behind the first `length`. */
  numAwaited: number;
  /** Of the latest of them: which of its step's samples it is. */
  awaitedSample: number;
  readonly pages: PageId[];
  /** Only sequences of one scope share pages. */
  readonly cacheScope: string;
  /** Of its full pages, as `prefixes.ts` makes them. */
  readonly pageKeys: string[];
  indexed: Indexed;
  /** Tokens of the prompt that were there at the first start. */
  numCached: number;
  /** First position that its adapter computes, known once the adapter is there; `Infinity` for none. */
  activeFrom: number;

  /** `leaving`: it has ended, but a step under way still names it. */
  phase: "waiting" | "running" | "leaving" | "ended";
  /** Where it waits and runs; `null` before it has joined a queue. */
  lane: Lane | null;
  /** Order of the latest start; the highest is preempted first. */
  startOrder: number;
  /** Step and `length` at the latest start. */
  startStep: number;
  startLength: number;
  /** Entries of steps under way that name it: its pages and lease must stay as long as there are any. */
  numUnderWay: number;
  /** Step at which it last joined the queue. */
  queuedStep: number;
  /** Set when the sequence is to end; first come stays. */
  ending: Ending | null;
  numPreemptions: number;

  /** When its adapter was there to be used; the submission for the base model. */
  adapterReadyMs: number | null;
  /** First start, not the one after a preemption. */
  startedMs: number | null;
  firstTokenMs: number | null;
}

export interface SequenceStart {
  readonly id: RequestId;
  readonly adapter: AdapterId | null;
  readonly tenant: string;
  readonly promptTokens: readonly number[];
  readonly sampling: Sampling;
  readonly output: SequenceOutput;
  readonly arrival: number;
  readonly priority?: number;
  /** Within the tenant; left out for all that leave it out. */
  readonly cacheSalt?: string;
  readonly submittedMs: number;
  readonly deadlineMs: number;
}

export const priorityOf = (sequence: Sequence): number => sequence.priority ?? 0;

export function createSequence(start: SequenceStart): Sequence {
  const { promptTokens, cacheSalt, ...rest } = start;
  const promptLength = promptTokens.length;
  const tokens = new Int32Array(promptLength + Math.min(rest.sampling.maxTokens, 64));
  tokens.set(promptTokens);
  return {
    ...rest,
    promptLength,
    tokens,
    length: promptLength,
    scored: 0,
    computed: 0,
    scheduled: 0,
    numAwaited: 0,
    awaitedSample: 0,
    pages: [],
    cacheScope: cacheSalt === undefined ? rest.tenant : `${rest.tenant}\0${cacheSalt}`,
    pageKeys: [],
    indexed: { numPages: 0, last: null },
    numCached: 0,
    activeFrom: 0,
    phase: "waiting",
    lane: null,
    startOrder: -1,
    startStep: 0,
    startLength: promptLength,
    numUnderWay: 0,
    queuedStep: 0,
    ending: null,
    numPreemptions: 0,
    adapterReadyMs: rest.adapter === null ? rest.submittedMs : null,
    startedMs: null,
    firstTokenMs: null,
  };
}

export const numGenerated = (sequence: Sequence): number => sequence.length - sequence.promptLength;

/** Tokens that the sequence may still generate, awaited ones among them. */
export const numRemaining = (sequence: Sequence): number =>
  sequence.sampling.maxTokens - numGenerated(sequence);

/** Whether rows of the prompt are still to be scored, each of which takes a sample. */
export const isScoring = ({ sampling, scored, promptLength }: Sequence): boolean =>
  (sampling.promptLogprobs ?? null) !== null && scored < promptLength - 1;

/** Tokens there will be once the steps under way are over. */
export const plannedLength = ({ length, numAwaited }: Sequence): number => length + numAwaited;

/** Tokens whose KV no step so far computes; at least 1 while the sequence runs. */
export const numUncomputed = (sequence: Sequence): number => plannedLength(sequence) - sequence.scheduled;

/** Whether only the newest token is left to compute, so that a step takes one row. */
export const isDecoding = (sequence: Sequence): boolean =>
  sequence.scheduled > 0 && numUncomputed(sequence) === 1;

/** Whether the last token that it may have is awaited already. */
export const isAtEnd = (sequence: Sequence): boolean => numRemaining(sequence) <= sequence.numAwaited;

/** Whether there is a token to show for the latest start, so that a preemption does not undo all of it. */
export const hasGained = ({ length, startLength }: Sequence): boolean => length > startLength;

export function appendToken(sequence: Sequence, token: number): void {
  if (sequence.length === sequence.tokens.length) {
    const grown = new Int32Array(sequence.tokens.length * 2 + 1);
    grown.set(sequence.tokens);
    sequence.tokens = grown;
  }
  sequence.tokens[sequence.length++] = token;
}

/** The last record of a sequence. */
export function finishOf(sequence: Sequence, ending: Ending, nowMs: number): Finish {
  const { submittedMs } = sequence;
  const startedMs = sequence.startedMs ?? nowMs;
  const adapterReadyMs = Math.min(sequence.adapterReadyMs ?? nowMs, startedMs);
  const firstTokenMs = sequence.firstTokenMs ?? nowMs;
  return {
    reason: ending.reason,
    stopReason: ending.stopReason,
    error: ending.error,
    usage: {
      promptTokens: sequence.promptLength,
      completionTokens: numGenerated(sequence),
      cachedTokens: sequence.numCached,
    },
    timing: {
      queueMs: startedMs - adapterReadyMs,
      adapterMs: adapterReadyMs - submittedMs,
      prefillMs: sequence.startedMs === null ? 0 : firstTokenMs - startedMs,
      decodeMs: sequence.firstTokenMs === null ? 0 : nowMs - firstTokenMs,
    },
  };
}
