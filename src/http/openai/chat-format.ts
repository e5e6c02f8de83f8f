/** Answers of `POST /v1/chat/completions`. */
import type { GenerationEvent } from "../../core/request.ts";
import type { SampledToken } from "../../core/sampling.ts";
import {
  type AnswerContext,
  type AnswerFormat,
  type AnswerUsage,
  idsOf,
  usageOf,
  type WholeChoice,
} from "./answer-format.ts";
import { tokenForm } from "./token-text.ts";

export class ChatFormat implements AnswerFormat {
  readonly #context: AnswerContext;

  constructor(context: AnswerContext) {
    this.#context = context;
  }

  opening(choice: number): object[] {
    const delta = { role: "assistant", content: "" };
    return [this.#chunk(choice, { delta, logprobs: null, finish_reason: null })];
  }

  pieces(choice: number, { text, tokens, finish }: GenerationEvent): object[] {
    const { withLogprobs, returnTokenIds } = this.#context;
    const chunks: object[] = [];
    if (text !== "" || (tokens.length > 0 && (withLogprobs || returnTokenIds))) {
      const delta = { content: text };
      chunks.push(this.#chunk(choice, { delta, ...this.#tokens(tokens), finish_reason: null }));
    }
    if (finish !== null) {
      const reasons = { finish_reason: finish.reason, stop_reason: finish.stopReason };
      chunks.push(this.#chunk(choice, { delta: {}, logprobs: null, ...reasons }));
    }
    return chunks;
  }

  usageChunk(usage: AnswerUsage): object {
    return { ...this.#head("chat.completion.chunk"), choices: [], usage: usageOf(usage) };
  }

  whole(choices: readonly WholeChoice[], usage: AnswerUsage): object {
    return {
      ...this.#head("chat.completion"),
      choices: choices.map(({ text, tokens, finishReason, stopReason }, index) => ({
        index,
        message: { role: "assistant", content: text, refusal: null },
        ...this.#tokens(tokens),
        finish_reason: finishReason,
        stop_reason: stopReason,
      })),
      usage: usageOf(usage),
      ...(this.#context.returnTokenIds ? { prompt_token_ids: this.#context.promptOf(0) } : {}),
    };
  }

  #head(object: string) {
    const { id, created, model } = this.#context;
    return { id, object, created, model };
  }

  #chunk(index: number, choice: object): object {
    return { ...this.#head("chat.completion.chunk"), choices: [{ index, ...choice }] };
  }

  #tokens(tokens: readonly SampledToken[]) {
    const { withLogprobs, returnTokenIds } = this.#context;
    const content = withLogprobs ? tokens.map((token) => this.#logprob(token)) : [];
    return {
      logprobs: withLogprobs ? { content, refusal: null } : null,
      ...(returnTokenIds ? { token_ids: idsOf(tokens) } : {}),
    };
  }

  #logprob({ id, logprob, top }: SampledToken) {
    const { tokenizer, tokensAsIds } = this.#context;
    const form = (token: number, value: number) => {
      const { text, bytes } = tokenForm(tokenizer, token, tokensAsIds);
      return { token: text, bytes, logprob: value };
    };
    return { ...form(id, logprob), top_logprobs: top.map((other) => form(other.id, other.logprob)) };
  }
}
