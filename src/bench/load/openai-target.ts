/** Any server with OpenAI's completions: Lorikeet, vLLM, SGLang, TensorRT-LLM, llama.cpp. */
import { ConfigError } from "../../core/errors.ts";
import { eventLines } from "./event-lines.ts";
import { post, textOf } from "./post.ts";
import type { Answered, LoadRequest, Target, TargetCounters } from "./target.ts";

export interface OpenAiTargetOptions {
  /** Up to and without `/v1`. */
  readonly baseUrl: string;
  /** None, one for all requests, or several: adapter i is asked for with key i modulo their number, as by a client of its own. */
  readonly apiKeys: readonly string[];
  /** `null` for the first that the server lists. */
  readonly model: string | null;
  /** Names that are asked for as models; `null` for all that the server lists besides the base. */
  readonly adapters: readonly string[] | null;
  /** `chat` sends texts as a user's message; ids can only be sent to `completions`. */
  readonly endpoint: "completions" | "chat";
}

interface Listed {
  readonly id: string;
  readonly parent?: string | null;
}

/** @throws {ConfigError} `config_invalid` when nothing answers there */
export async function openAiTarget({ baseUrl, apiKeys, model, adapters, endpoint }: OpenAiTargetOptions): Promise<Target> {
  const base = baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
  if (!/^https?:$/.test(URL.parse(base)?.protocol ?? "")) throw new ConfigError("config_invalid", `--base-url must be an address with http:// or https://, got "${baseUrl}"`, { field: "--base-url" });
  const headersOf = (adapter: number): Record<string, string> => ({
    "content-type": "application/json",
    ...(apiKeys.length === 0 ? {} : { authorization: `Bearer ${apiKeys[adapter % apiKeys.length]}` }),
  });
  const headers = headersOf(0);
  const listed = model !== null && adapters !== null ? [] : await listModels(base, headers);
  const name = model ?? listed.find(({ parent }) => (parent ?? null) === null)?.id;
  if (name === undefined) throw new ConfigError("config_invalid", `${base} lists no model; name one with --model`, { field: "--model" });
  const names = adapters ?? listed.filter(({ parent }) => (parent ?? null) !== null).map(({ id }) => id);
  const url = new URL(`${base}/v1/${endpoint === "chat" ? "chat/completions" : "completions"}`);
  return {
    model: name,
    adapters: names,
    async send(request, onTokens, signal) {
      const body = bodyOf(request, request.adapter === null ? name : names[request.adapter]!, endpoint);
      const answer = await post(url, headersOf(request.adapter ?? 0), body, signal);
      if (answer.status !== 200) throw new Error(`${answer.status}: ${problemOf(await textOf(answer.body))}`);
      return readAnswer(answer.body, onTokens);
    },
    counters: () => scrape(base, headers),
  };
}

async function listModels(base: string, headers: Record<string, string>): Promise<readonly Listed[]> {
  const wrong = (problem: string, cause?: unknown): ConfigError => new ConfigError("config_invalid", `${base}/v1/models ${problem}; give the address of an OpenAI-compatible server with --base-url`, { field: "--base-url", cause });
  const response = await fetch(`${base}/v1/models`, { headers }).catch((cause: unknown) => {
    throw wrong("does not answer", cause);
  });
  if (!response.ok) throw wrong(`answered ${response.status}: ${problemOf(await response.text())}`);
  const { data } = (await response.json().catch(() => ({}))) as { readonly data?: readonly Listed[] };
  if (!Array.isArray(data)) throw wrong("has no list of models");
  return data as readonly Listed[];
}

function bodyOf({ prompt, outputTokens }: LoadRequest, model: string, endpoint: "completions" | "chat"): string {
  if (endpoint === "chat" && typeof prompt !== "string") throw new Error("prompts of token ids can only be sent with --endpoint completions");
  const asked = endpoint === "chat" ? { messages: [{ role: "user", content: prompt }] } : { prompt };
  return JSON.stringify({ model, ...asked, max_tokens: outputTokens, temperature: 0, ignore_eos: true, stream: true, stream_options: { include_usage: true } });
}

interface Chunk {
  readonly choices?: readonly { readonly text?: string; readonly delta?: { readonly content?: string | null }; readonly finish_reason?: string | null }[];
  readonly usage?: { readonly prompt_tokens?: number; readonly completion_tokens?: number } | null;
  readonly error?: { readonly message?: string };
}

/** A chunk is one token until the usage at the end tells how many there were. */
async function readAnswer(body: AsyncIterable<Uint8Array>, onTokens: (count: number) => void): Promise<Answered> {
  let text = "";
  let numChunks = 0;
  let usage: Chunk["usage"] = null;
  let isWhole = false;
  for await (const data of eventLines(body)) {
    if (data === "[DONE]") {
      isWhole = true;
      continue;
    }
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error !== undefined) throw new Error(chunk.error.message ?? data);
    usage = chunk.usage ?? usage;
    const choice = chunk.choices?.[0];
    if (choice === undefined) continue;
    const piece = choice.text ?? choice.delta?.content ?? null;
    if (choice.finish_reason !== undefined && choice.finish_reason !== null) isWhole = true;
    // The chunk with the role comes before the first token.
    if (piece === null || (piece === "" && choice.delta !== undefined)) continue;
    text += piece;
    numChunks++;
    onTokens(1);
  }
  if (!isWhole) throw new Error("the answer broke off");
  return { promptTokens: usage?.prompt_tokens ?? null, outputTokens: usage?.completion_tokens ?? numChunks, text };
}

function problemOf(body: string): string {
  try {
    const { error, message } = JSON.parse(body) as { readonly error?: { readonly message?: string }; readonly message?: string };
    return error?.message ?? message ?? body.slice(0, 200);
  } catch {
    return body.slice(0, 200);
  }
}

/** Lorikeet's own counters; other servers have others, and then there are none. */
async function scrape(base: string, headers: Record<string, string>): Promise<TargetCounters | null> {
  const text = await fetch(`${base}/metrics`, { headers }).then((response) => (response.ok ? response.text() : ""), () => "");
  const values = new Map<string, number>();
  for (const line of text.split("\n")) {
    const [, name = "", labels = "", value] = /^([a-z_:]+)(\{.*\})? (\S+)/i.exec(line) ?? [];
    // What leaves host memory is no swap.
    if (labels.includes('tier="host"')) continue;
    values.set(name, (values.get(name) ?? 0) + Number(value));
  }
  const of = (name: string): number => values.get(name) ?? 0;
  if (!values.has("lorikeet_steps_total")) return null;
  return {
    adapterLoads: of("lorikeet_adapter_loads_total"),
    adapterEvictions: of("lorikeet_adapter_evictions_total"),
    slotsUsed: of("lorikeet_adapter_slots_used"),
    steps: of("lorikeet_steps_total"),
    preemptions: of("vllm:num_preemptions_total"),
    computeMs: 1000 * of("lorikeet_step_compute_seconds_total"),
  };
}
