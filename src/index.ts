/** Lorikeet as a library. */
import { givenOptions, resolveConfig } from "./config/resolve.ts";
import type { Config, KvCacheSettings, LoraSettings, PeftCacheSettings, SERVER_SETTINGS } from "./config/settings.ts";
import { AdapterError } from "./core/errors.ts";
import { Generator } from "./library/generator.ts";
import { openRuntime } from "./runtime/open-runtime.ts";
import type { Runtime } from "./runtime/runtime.ts";

export {
  AdapterError,
  CapacityError,
  ConfigError,
  type ErrorCode,
  type ErrorDetails,
  InvariantError,
  LorikeetError,
  ModelError,
  NativeError,
  RequestError,
} from "./core/errors.ts";
export type { AdapterId } from "./core/ids.ts";
export type { FinishReason } from "./core/sampling.ts";
export type { GenerateOptions, PromptInput } from "./library/generator.ts";
export type { GenerationResult } from "./library/generation-result.ts";
export type { GuidedDecoding, GuidedSamplingParams as SamplingParams } from "./library/guided-decoding.ts";
export { LoRARequest } from "./library/lora-request.ts";
export type { CompletionOutput, Logprob, RequestOutput } from "./library/outputs.ts";
export type { AdapterListing, AdapterState, AdapterTier, AdapterToLoad, AdapterToUnload, DownloadProgress } from "./runtime/adapter-listing.ts";
export type { ChatMessage } from "./runtime/chat-message.ts";
export type { RuntimeStats } from "./runtime/runtime-stats.ts";
export type { Contention } from "./schedule/contention.ts";

/** Where adapters are, and their limits: TensorRT-LLM's `LoraConfig` in camelCase. */
export interface LoraConfig extends Partial<LoraSettings> {}
/** Caches of adapters: TensorRT-LLM's `PeftCacheConfig` in camelCase. */
export interface PeftCacheConfig extends Partial<PeftCacheSettings> {}
/** The cache of keys and values: TensorRT-LLM's `KvCacheConfig` in camelCase. */
export interface KvCacheConfig extends Partial<KvCacheSettings> {}

/** Settings that only a server has, and those that have a type of their own here. */
type Elsewhere = keyof typeof SERVER_SETTINGS | "model" | "loraConfig" | "peftCacheConfig" | "kvCacheConfig";

/** What a model is opened with. Every field but `model` may be left out. */
export interface LLMOptions extends Partial<Omit<Config, Elsewhere>> {
  /** The base model: a directory, `OWNER/NAME[@REVISION]` of a Hugging Face hub, `s3://BUCKET/FOLDER` or `https://HOST/FOLDER`. */
  readonly model: string;
  /** Adapters and their limits. */
  readonly loraConfig?: LoraConfig;
  /** Room for adapters on host and device. */
  readonly peftCacheConfig?: PeftCacheConfig;
  /** Room for keys and values. */
  readonly kvCacheConfig?: KvCacheConfig;
}

/**
 * One base model with its adapters inside this process.
 *
 * The model opens in the background; the first call waits for it.
 *
 * @example
 * await using llm = new LLM({ model: "models/demo", loraConfig: { loraDir: ["models/demo/adapters/sql"] } });
 * const messages = [{ role: "user", content: "Write SQL: How many users?" }];
 * const output = await llm.generate({ messages }, { maxTokens: 64 }, { loraRequest: new LoRARequest("sql", 1) });
 * console.log(output.text);
 */
export class LLM extends Generator {
  /** @throws {ConfigError} `config_invalid` at once for a wrong option; a model that cannot be opened fails every call */
  constructor(options: LLMOptions) {
    const { config } = resolveConfig(givenOptions(options));
    super(open(config));
  }
}

async function open(config: Config): Promise<Runtime> {
  const { runtime, refused } = await openRuntime(config);
  const [first] = refused;
  if (first === undefined) return runtime;
  // A server goes on with the others; a program that named an adapter wants to know before it asks.
  await runtime.close(0);
  throw new AdapterError(first.error.errorCode, `adapter ${first.name} cannot be served: ${first.error.message}`, {
    field: "loraDir",
    cause: first.error,
  });
}
