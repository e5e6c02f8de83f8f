/** One prompt to one model, answered piece by piece. */
import { call, type Keys } from "./api.ts";
import { readEvents } from "./sse.ts";

export interface Ask {
  readonly model: string;
  readonly prompt: string;
  /** By the model's chat template; as it is otherwise. */
  readonly isChat: boolean;
  readonly maxTokens: number;
  readonly temperature: number;
}

export interface Timeline {
  readonly queue_ms: number;
  readonly adapter_ms: number;
  readonly prefill_ms: number;
  readonly decode_ms: number;
}

export interface AnswerEnd {
  readonly finish: string;
  readonly numTokens: number;
  readonly timeline: Timeline | null;
}

interface Chunk {
  readonly error?: { readonly message: string };
  readonly choices?: readonly {
    readonly text?: string;
    readonly delta?: { readonly content?: string };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: { readonly completion_tokens: number; readonly timeline?: readonly Timeline[] } | null;
}

/** @throws {CallError} or an error with the server's sentence, whenever it failed */
export async function streamAnswer(keys: Keys, ask: Ask, signal: AbortSignal, onText: (text: string) => void): Promise<AnswerEnd> {
  const { model, prompt, isChat, maxTokens, temperature } = ask;
  const body = {
    model,
    ...(isChat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: maxTokens,
    temperature,
    stream: true,
    stream_options: { include_usage: true },
    return_timeline: true,
  };
  const response = await call(keys, { path: isChat ? "/v1/chat/completions" : "/v1/completions", body, signal });
  let end: AnswerEnd = { finish: "", numTokens: 0, timeline: null };
  for await (const { data } of readEvents(response.body!)) {
    if (data === "[DONE]") break;
    const { error, choices, usage } = JSON.parse(data) as Chunk;
    if (error !== undefined) throw new Error(error.message);
    const choice = choices?.[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    if (text !== "") onText(text);
    if (choice?.finish_reason != null) end = { ...end, finish: choice.finish_reason };
    if (usage != null) end = { ...end, numTokens: usage.completion_tokens, timeline: usage.timeline?.[0] ?? null };
  }
  return end;
}
