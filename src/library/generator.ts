/** Lorikeet inside a Bun program. */
import { RequestError } from "../core/errors.ts";
import type { AdapterId } from "../core/ids.ts";
import { chatEncoder } from "../runtime/chat.ts";
import type { ChatMessage } from "../runtime/chat-message.ts";
import {
  checkTokenIds,
  generateAll,
  libraryDefaults,
  prepareRequests,
  promptTokens,
  resolveChoices,
} from "../runtime/requests.ts";
import type { AdapterListing, AdapterToLoad, AdapterToUnload } from "../runtime/adapter-listing.ts";
import type { Runtime } from "../runtime/runtime.ts";
import type { RuntimeStats } from "../runtime/runtime-stats.ts";
import { GenerationResult } from "./generation-result.ts";
import { compileGuided, type GuidedSamplingParams as SamplingParams } from "./guided-decoding.ts";
import type { LoRARequest } from "./lora-request.ts";
import type { RequestOutput } from "./outputs.ts";

/** Text as it is, token ids, either one in an object, or a conversation that the model's chat template writes. */
export type PromptInput =
  | string
  | readonly number[]
  | {
      /** Text as it is, without the chat template. */
      readonly prompt: string;
    }
  | {
      /** At least one. */
      readonly messages: readonly ChatMessage[];
    }
  | {
      /** From 0 to below the vocabulary's size. */
      readonly promptTokenIds: readonly number[];
    };

/** What holds for one call. */
export interface GenerateOptions {
  /** One for all prompts, or one per prompt; `null` is the base model. */
  readonly loraRequest?: LoRARequest | null | readonly (LoRARequest | null)[];
  /** Ends every request of this call with `cancelled`. */
  readonly signal?: AbortSignal;
}

/**
 * One base model and its adapters, ready to generate. `LLM` of the package opens one.
 *
 * @example
 * await using llm = new LLM({ model: "models/demo", loraConfig: { loraDir: ["models/demo/adapters"] } });
 * const messages = [{ role: "user", content: "Write SQL: How many users?" }];
 * const output = await llm.generate({ messages }, { maxTokens: 64 }, { loraRequest: new LoRARequest("sql", 1) });
 * console.log(output.text);
 */
export class Generator implements AsyncDisposable {
  readonly #runtime: Promise<Runtime>;

  /**
   * @internal
   * @param runtime a failure to open fails every call
   */
  constructor(runtime: Promise<Runtime>) {
    this.#runtime = runtime;
    // Reported by every call that waits for it; without this Bun would end the process before the first one.
    runtime.catch(() => undefined);
  }

  /** @internal What is behind the model, once it is open. */
  static runtimeOf(generator: Generator): Promise<Runtime> {
    return generator.#runtime;
  }

  /** Resolves when the model is open. @throws {ModelError | NativeError | ConfigError} why it cannot be */
  async ready(): Promise<void> {
    await this.#runtime;
  }

  /**
   * Generates for one prompt or for many, which then share steps.
   *
   * @param inputs one prompt gives one output; a list gives a list in the same order
   * @param samplingParams one for all, or one per prompt; greedy and 32 tokens when left out
   * @throws {RequestError | AdapterError} for input that cannot be served, before anything is queued;
   *   the failure of a single request is its output's `error`
   */
  generate(
    inputs: PromptInput,
    samplingParams?: SamplingParams | readonly SamplingParams[],
    options?: GenerateOptions,
  ): Promise<RequestOutput>;
  generate(
    inputs: readonly PromptInput[],
    samplingParams?: SamplingParams | readonly SamplingParams[],
    options?: GenerateOptions,
  ): Promise<RequestOutput[]>;
  async generate(
    inputs: PromptInput | readonly PromptInput[],
    samplingParams: SamplingParams | readonly SamplingParams[] = {},
    options: GenerateOptions = {},
  ): Promise<RequestOutput | RequestOutput[]> {
    if (isOnePrompt(inputs)) {
      const params = Array.isArray(samplingParams) ? nth<SamplingParams>(samplingParams, 0, 1, "samplingParams") : samplingParams;
      return this.#start(inputs, params as SamplingParams, nthAdapter(options.loraRequest, 0, 1), options.signal);
    }
    const results = inputs.map((input, i) => {
      const params = nth(samplingParams, i, inputs.length, "samplingParams");
      return this.#start(input, params, nthAdapter(options.loraRequest, i, inputs.length), options.signal);
    });
    return Promise.all(results);
  }

  /**
   * Starts one prompt. The result can be awaited for the whole output, or iterated for every piece of it.
   *
   * @example for await (const output of llm.generateAsync("Tell me a story.")) process.stdout.write(output.outputs[0].textDiff);
   */
  generateAsync(
    input: PromptInput,
    samplingParams: SamplingParams = {},
    options: { readonly loraRequest?: LoRARequest | null; readonly signal?: AbortSignal } = {},
  ): GenerationResult {
    return this.#start(input, samplingParams, options.loraRequest ?? null, options.signal);
  }

  /** State, digest and use of every adapter. */
  async adapters(): Promise<readonly AdapterListing[]> {
    return (await this.#runtime).adapters();
  }

  /**
   * Reads and checks an adapter now, so that its first request need not wait, and keeps it with `pin`.
   *
   * @throws {AdapterError} `adapter_invalid`, `adapter_unsupported` or `adapter_too_large`, for what its files are
   * @throws {RequestError} `adapter_exists` without `replace`, `forbidden_path` outside of `adapterRoot`
   * @throws {CapacityError} `queue_full` for too many names, loads or pins
   * @example await llm.loadAdapter({ name: "sql", path: "adapters/sql-v2", replace: true });
   */
  async loadAdapter(adapter: AdapterToLoad): Promise<AdapterListing> {
    return (await this.#runtime).loadAdapter(adapter, "program");
  }

  /** Takes an adapter's name away; requests under way end on it. @throws {AdapterError} `adapter_not_found` */
  async unloadAdapter(adapter: AdapterToUnload): Promise<AdapterListing> {
    return (await this.#runtime).unloadAdapter(adapter);
  }

  /** Requests, memory, steps and tokens as they are now. */
  async stats(): Promise<RuntimeStats> {
    return (await this.#runtime).stats();
  }

  /** Token ids of a text under the model's tokenizer. @throws {RequestError} without a tokenizer */
  async encode(text: string): Promise<readonly number[]> {
    return promptTokens((await this.#runtime).model, text);
  }

  /** Lets running requests end within `timeoutMs` milliseconds, ends the rest with `shutdown`, and frees the model. */
  async shutdown(timeoutMs = 30_000): Promise<void> {
    const runtime = await this.#runtime.catch(() => null);
    await runtime?.close(timeoutMs);
  }

  /** For `await using`: `shutdown()`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown();
  }

  #start(
    input: PromptInput,
    params: SamplingParams,
    loraRequest: LoRARequest | null,
    signal: AbortSignal | undefined,
  ): GenerationResult {
    return new GenerationResult(async () => {
      const runtime = await this.#runtime;
      const { prompt, tokens } = readPrompt(runtime, input);
      const adapter = loraRequest === null ? null : await resolveAdapter(runtime, loraRequest);
      const { guidedDecoding, ...sampling } = params;
      const requests = prepareRequests(runtime, {
        prompts: [tokens],
        adapter,
        grammar: await compileGuided(runtime, guidedDecoding, sampling),
        params: sampling,
        defaults: libraryDefaults,
        fieldName: (field) => field,
      });
      const { numWanted } = resolveChoices(sampling);
      const withLogprobs = sampling.logprobs != null;
      return { prompt, tokens, generations: generateAll(runtime, requests), numWanted, withLogprobs };
    }, signal);
  }
}

const resolveAdapter = (runtime: Runtime, request: LoRARequest): Promise<AdapterId> =>
  runtime.resolveAdapter({
    name: request.loraName,
    intId: request.loraIntId,
    ...(request.loraPath === "" ? {} : { path: request.loraPath }),
    ...(request.loraCkptSource === "nemo" ? { source: request.loraCkptSource } : {}),
  }, "program");

function readPrompt({ model }: Runtime, input: PromptInput): { prompt: string | null; tokens: readonly number[] } {
  if (typeof input === "string") return { prompt: input, tokens: promptTokens(model, input) };
  if ("prompt" in input) {
    if (typeof input.prompt !== "string") throw new RequestError("invalid_request", "prompt must be a string", { field: "prompt" });
    return { prompt: input.prompt, tokens: promptTokens(model, input.prompt) };
  }
  if ("messages" in input) {
    return { prompt: null, tokens: chatEncoder(model)(readMessages(input.messages), { addGenerationPrompt: true }) };
  }
  const ids = "promptTokenIds" in input ? input.promptTokenIds : input;
  if (!Array.isArray(ids)) {
    throw new RequestError("invalid_request", "a prompt must be a string or a list of token ids", { field: "promptTokenIds" });
  }
  return { prompt: null, tokens: checkTokenIds(ids, model.program.vocabSize, "promptTokenIds") };
}

function readMessages(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const isGood = (message: ChatMessage): boolean => typeof message?.role === "string" && typeof message.content === "string";
  if (Array.isArray(messages) && messages.length > 0 && messages.every(isGood)) return messages;
  throw new RequestError("invalid_request", "messages must be a list of at least one { role, content }, both strings", { field: "messages" });
}

/** Token ids are one prompt; a list of anything else is many. */
function isOnePrompt(inputs: PromptInput | readonly PromptInput[]): inputs is PromptInput {
  return !Array.isArray(inputs) || (inputs.length > 0 && typeof inputs[0] === "number");
}

/** A list gives one value per prompt; a single value is for all. */
function nth<T>(values: T | readonly T[], index: number, length: number, field: string): T {
  if (!Array.isArray(values)) return values as T;
  if (values.length !== length) {
    throw new RequestError(
      "invalid_request",
      `${field} has ${values.length} entries for ${length} ${length === 1 ? "prompt" : "prompts"}; give one for all, or one per prompt`,
      { field },
    );
  }
  return values[index] as T;
}

const nthAdapter = (values: GenerateOptions["loraRequest"], index: number, length: number): LoRARequest | null =>
  nth<LoRARequest | null>(values ?? null, index, length, "loraRequest");
