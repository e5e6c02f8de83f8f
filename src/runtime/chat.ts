/** Conversations to prompt tokens, by the model's own template. */
import { RequestError } from "../core/errors.ts";
import type { LoadedModel } from "../model/load-model.ts";
import { encodeChat } from "../model/render-chat.ts";
import type { ChatMessage } from "./chat-message.ts";

export type { ChatMessage } from "./chat-message.ts";

export interface ChatOptions {
  readonly addGenerationPrompt: boolean;
  /** In OpenAI's form. */
  readonly tools?: readonly object[] | null;
  readonly documents?: readonly object[] | null;
  /** Further variables of the template. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

export type ChatEncoder = (messages: readonly ChatMessage[], options: ChatOptions) => readonly number[];

/** The encoder throws {RequestError} `invalid_request` for a model that does not chat, or a conversation its template refuses. */
export function chatEncoder({ tokenizer, chatTemplate }: Pick<LoadedModel, "tokenizer" | "chatTemplate">): ChatEncoder {
  return (messages, options) => {
    if (tokenizer === null || chatTemplate === null) {
      const missing = tokenizer === null ? "tokenizer" : "chat template";
      throw new RequestError("invalid_request", `messages cannot be read: the model has no ${missing}; use /v1/completions`, {
        field: "messages",
      });
    }
    return encodeChat(tokenizer, chatTemplate, { messages, ...options });
  };
}
