/** Answers of `POST /v1/completions`. */
import type { GenerationEvent } from "../../core/request.ts";
import type { SampledToken } from "../../core/sampling.ts";
import {
  type AnswerContext,
  type AnswerFormat,
  type AnswerUsage,
  usageOf,
  type WholeChoice,
} from "./answer-format.ts";
import { OffsetCounter, tokenForm } from "./token-text.ts";

export interface CompletionEcho {
  /** What the text of each choice starts with: its prompt. */
  readonly textOf: (choice: number) => string;
  /** Whether nothing follows. */
  readonly isAll: boolean;
}

/** One token of a choice; the first of a prompt has no log-probability. */
type ShownToken = Pick<SampledToken, "id" | "top"> & { readonly logprob: number | null };

export class CompletionFormat implements AnswerFormat {
  readonly #context: AnswerContext;
  readonly #echo: CompletionEcho | null;
  /** Choices whose prompt, with its log-probabilities, has left. */
  readonly #echoed = new Set<number>();
  readonly #offsets = new Map<number, OffsetCounter>();

  constructor(context: AnswerContext, echo: CompletionEcho | null = null) {
    this.#context = context;
    this.#echo = echo;
  }

  /** An echo with log-probabilities has to wait for them. */
  opening(choice: number): object[] {
    if (this.#echo === null || this.#context.withLogprobs) return [];
    return [this.#chunk(choice, this.#echo.textOf(choice), [], null)];
  }

  pieces(choice: number, { text, tokens, finish, prompt }: GenerationEvent): object[] {
    const chunks: object[] = [];
    if (this.#echo !== null && this.#context.withLogprobs && !this.#echoed.has(choice)) {
      this.#echoed.add(choice);
      chunks.push(this.#chunk(choice, this.#echo.textOf(choice), this.#promptTokens(choice, prompt ?? []), null));
    }
    const own = this.#own(text, tokens);
    const isEmpty = own.text === "" && finish === null && (own.tokens.length === 0 || !this.#showsTokens());
    if (!isEmpty) chunks.push(this.#chunk(choice, own.text, own.tokens, finish));
    return chunks;
  }

  usageChunk(usage: AnswerUsage): object {
    return { ...this.#head(), choices: [], usage: this.#usage(usage) };
  }

  whole(choices: readonly WholeChoice[], usage: AnswerUsage): object {
    const written = choices.map(({ text, tokens, prompt, finishReason, stopReason }, i) => {
      const own = this.#own(text, tokens);
      const shown = this.#echo === null ? own.tokens : [...this.#promptTokens(i, prompt ?? []), ...own.tokens];
      const choice = this.#choice(i, (this.#echo?.textOf(i) ?? "") + own.text, shown, { finish_reason: finishReason, stop_reason: stopReason });
      return this.#context.returnTokenIds
        ? { ...choice, prompt_token_ids: this.#context.promptOf(i) }
        : choice;
    });
    return { ...this.#head(), choices: written, usage: this.#usage(usage) };
  }

  /** The model's own part, of which an echo that is all has none. */
  #own(text: string, tokens: readonly SampledToken[]): { readonly text: string; readonly tokens: readonly SampledToken[] } {
    return this.#echo?.isAll === true ? { text: "", tokens: [] } : { text, tokens };
  }

  #usage(usage: AnswerUsage) {
    return usageOf(this.#echo?.isAll === true ? { ...usage, completionTokens: 0 } : usage);
  }

  #promptTokens(choice: number, scored: readonly SampledToken[]): ShownToken[] {
    return [{ id: this.#context.promptOf(choice)[0]!, logprob: null, top: [] }, ...scored];
  }

  #chunk(choice: number, text: string, tokens: readonly ShownToken[], finish: GenerationEvent["finish"]): object {
    const reasons = { finish_reason: finish?.reason ?? null, stop_reason: finish?.stopReason ?? null };
    return { ...this.#head(), choices: [this.#choice(choice, text, tokens, reasons)] };
  }

  #head() {
    const { id, created, model } = this.#context;
    return { id, object: "text_completion", created, model };
  }

  #showsTokens(): boolean {
    return this.#context.withLogprobs || this.#context.returnTokenIds;
  }

  #choice(index: number, text: string, tokens: readonly ShownToken[], reasons: object) {
    const { withLogprobs, returnTokenIds } = this.#context;
    return {
      index,
      text,
      logprobs: withLogprobs ? this.#logprobs(index, tokens) : null,
      ...reasons,
      ...(returnTokenIds ? { token_ids: tokens.map(({ id }) => id) } : {}),
    };
  }

  #logprobs(choice: number, tokens: readonly ShownToken[]) {
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
        logprob === null ? null : Object.fromEntries([...top.map((other) => [textOf(other.id), other.logprob]), [textOf(id), logprob]]),
      ),
      text_offset: tokens.map(({ id }) => offsets.push(id)),
    };
  }
}
