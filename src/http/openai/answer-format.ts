/** What the two APIs' answers have in common, and the interface through which they are written. */
import type { GenerationEvent, RequestTiming, Usage } from "../../core/request.ts";
import type { SampledToken } from "../../core/sampling.ts";
import type { Tokenizer } from "../../model/tokenizer.ts";
import { timelineOf } from "./timeline.ts";

export interface AnswerContext {
  readonly id: string;
  /** As the client wrote it. */
  readonly model: string;
  /** Unix seconds. */
  readonly created: number;
  readonly tokenizer: Tokenizer | null;
  readonly withLogprobs: boolean;
  readonly tokensAsIds: boolean;
  readonly skipSpecialTokens: boolean;
  readonly returnTokenIds: boolean;
  /** Prompt of each choice. */
  readonly promptOf: (choice: number) => readonly number[];
}

/** One choice, complete. */
export interface WholeChoice {
  readonly text: string;
  readonly tokens: readonly SampledToken[];
  /** Of the prompt, from its second token on, where they were asked for. */
  readonly prompt: readonly SampledToken[] | null;
  readonly finishReason: string;
  readonly stopReason: string | number | null;
}

/** Writes one answer. Has state per choice, so each answer needs its own. */
export interface AnswerFormat {
  /** Chunks before the first piece of a choice. */
  opening(choice: number): object[];
  /** Chunks for a piece of a choice, the finish included. */
  pieces(choice: number, event: GenerationEvent): object[];
  /** The last chunk, with no choices. */
  usageChunk(usage: AnswerUsage): object;
  whole(choices: readonly WholeChoice[], usage: AnswerUsage): object;
}

export interface AnswerUsage extends Usage {
  /** One per choice that has ended, for a client that asked. */
  readonly timings?: readonly RequestTiming[];
}

export const usageOf = ({ promptTokens, completionTokens, cachedTokens, timings }: AnswerUsage) => ({
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
  total_tokens: promptTokens + completionTokens,
  ...(cachedTokens === undefined ? {} : { prompt_tokens_details: { cached_tokens: cachedTokens } }),
  ...(timings === undefined ? {} : { timeline: timings.map(timelineOf) }),
});

export const idsOf = (tokens: readonly SampledToken[]): number[] => tokens.map(({ id }) => id);
