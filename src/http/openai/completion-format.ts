/** Answers of `POST /v1/completions`. */
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
import { OffsetCounter, tokenForm } from "./token-text.ts";

export class CompletionFormat implements AnswerFormat {
  readonly #context: AnswerContext;
  readonly #offsets = new Map<number, OffsetCounter>();

  constructor(context: AnswerContext) {
    this.#context = context;
  }

  opening(choice: number): object[] {
    const prefix = this.#context.prefixOf(choice);
    return prefix === "" ? [] : [{ ...this.#head(), choices: [this.#choice(choice, prefix, [], { finish_reason: null, stop_reason: null })] }];
  }

  pieces(choice: number, { text, tokens, finish }: GenerationEvent): object[] {
    const isEmpty = text === "" && finish === null && (tokens.length === 0 || !this.#showsTokens());
    if (isEmpty) return [];
    const reasons = { finish_reason: finish?.reason ?? null, stop_reason: finish?.stopReason ?? null };
    return [{ ...this.#head(), choices: [this.#choice(choice, text, tokens, reasons)] }];
  }

  usageChunk(usage: AnswerUsage): object {
    return { ...this.#head(), choices: [], usage: usageOf(usage) };
  }

  whole(choices: readonly WholeChoice[], usage: AnswerUsage): object {
    const written = choices.map(({ text, tokens, finishReason, stopReason }, i) => {
      const choice = this.#choice(i, this.#context.prefixOf(i) + text, tokens, { finish_reason: finishReason, stop_reason: stopReason });
      return this.#context.returnTokenIds
        ? { ...choice, prompt_token_ids: this.#context.promptOf(i) }
        : choice;
    });
    return { ...this.#head(), choices: written, usage: usageOf(usage) };
  }

  #head() {
    const { id, created, model } = this.#context;
    return { id, object: "text_completion", created, model };
  }

  #showsTokens(): boolean {
    return this.#context.withLogprobs || this.#context.returnTokenIds;
  }

  #choice(index: number, text: string, tokens: readonly SampledToken[], reasons: object) {
    const { withLogprobs, returnTokenIds } = this.#context;
    return {
      index,
      text,
      logprobs: withLogprobs ? this.#logprobs(index, tokens) : null,
      ...reasons,
      ...(returnTokenIds ? { token_ids: idsOf(tokens) } : {}),
    };
  }

  #logprobs(choice: number, tokens: readonly SampledToken[]) {
    const { tokenizer, tokensAsIds, skipSpecialTokens } = this.#context;
    const offsets = this.#offsets.getOrInsertComputed(
      choice,
      () => new OffsetCounter(tokenizer, skipSpecialTokens),
    );
    const textOf = (id: number) => tokenForm(tokenizer, id, tokensAsIds).text;
    return {
      tokens: tokens.map(({ id }) => textOf(id)),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      // The token itself is always among the alternatives, however unlikely it was.
      top_logprobs: tokens.map(({ id, logprob, top }) =>
        Object.fromEntries([...top.map((other) => [textOf(other.id), other.logprob]), [textOf(id), logprob]]),
      ),
      text_offset: tokens.map(({ id }) => offsets.push(id)),
    };
  }
}
