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
import { type ExpectedCalls, PartReader } from "./expected-calls.ts";
import type { AnswerPart } from "./tool-call-reader.ts";
import { tokenForm } from "./token-text.ts";

export class ChatFormat implements AnswerFormat {
  readonly #context: AnswerContext;
  readonly #calls: ExpectedCalls | null;
  readonly #readers = new Map<number, PartReader>();

  constructor(context: AnswerContext, calls: ExpectedCalls | null) {
    this.#context = context;
    this.#calls = calls;
  }

  opening(choice: number): object[] {
    const delta = { role: "assistant", content: "" };
    return [this.#chunk(choice, { delta, logprobs: null, finish_reason: null })];
  }

  pieces(choice: number, { text, tokens, finish }: GenerationEvent): object[] {
    const { withLogprobs, returnTokenIds } = this.#context;
    const reader = this.#readers.getOrInsertComputed(choice, () => new PartReader(this.#calls));
    const deltas = reader.read(text, finish !== null).map(deltaOf);
    // Tokens go with the first piece of their text, or alone while it is held back.
    if (deltas.length === 0 && tokens.length > 0 && (withLogprobs || returnTokenIds)) deltas.push({ content: "" });
    const chunks: object[] = deltas.map((delta, i) => this.#chunk(choice, { delta, ...this.#tokens(i === 0 ? tokens : []), finish_reason: null }));
    if (finish !== null) {
      const reasons = { finish_reason: finishReason(finish.reason, reader), stop_reason: finish.stopReason };
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
      choices: choices.map((choice, index) => this.#whole(choice, index)),
      usage: usageOf(usage),
      ...(this.#context.returnTokenIds ? { prompt_token_ids: this.#context.promptOf(0) } : {}),
    };
  }

  #whole({ text, tokens, finishReason: reason, stopReason }: WholeChoice, index: number) {
    const reader = new PartReader(this.#calls);
    return {
      index,
      message: messageOf(reader.read(text, true)),
      ...this.#tokens(tokens),
      finish_reason: finishReason(reason, reader),
      stop_reason: stopReason,
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

const newCallId = (): string => `call_${crypto.randomUUID().replaceAll("-", "").slice(0, 24)}`;

function deltaOf(part: AnswerPart): object {
  switch (part.type) {
    case "content":
      return { content: part.text };
    case "name":
      return { tool_calls: [{ index: part.call, id: newCallId(), type: "function", function: { name: part.name, arguments: "" } }] };
    case "arguments":
      return { tool_calls: [{ index: part.call, function: { arguments: part.text } }] };
  }
}

function messageOf(parts: readonly AnswerPart[]): object {
  const calls: { id: string; type: "function"; function: { name: string; arguments: string } }[] = [];
  let content = "";
  for (const part of parts) {
    if (part.type === "content") content += part.text;
    else if (part.type === "name") calls.push({ id: newCallId(), type: "function", function: { name: part.name, arguments: "" } });
    else calls[part.call]!.function.arguments += part.text;
  }
  const message = { role: "assistant", content, refusal: null };
  return calls.length === 0 ? message : { ...message, content: content.trim() === "" ? null : content, tool_calls: calls };
}

const finishReason = (reason: string, { numCalls }: PartReader): string => (reason === "stop" && numCalls > 0 ? "tool_calls" : reason);
