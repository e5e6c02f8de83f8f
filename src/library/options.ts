/** Options of `new LLM(...)`: the settings of the command line and of YAML, in camelCase. */
import { givenOptions, resolveConfig } from "../config/resolve.ts";
import type { Config, KvCacheSettings, LoraSettings, PeftCacheSettings } from "../config/settings.ts";
import { openRuntime } from "../runtime/open-runtime.ts";
import type { Runtime } from "../runtime/runtime.ts";

/** Settings of the HTTP server alone. */
type ServerSetting =
  | "host" | "port" | "allowedHost" | "apiKey" | "allowNoKey" | "shutdownTimeoutS" | "logLevel"
  | "loraConfig" | "peftCacheConfig" | "kvCacheConfig" | "model";

/** Adapters: where they are, and limits; see TensorRT-LLM's `LoraConfig`. */
export type LoraConfig = Partial<LoraSettings>;
/** Caches of adapters; see TensorRT-LLM's `PeftCacheConfig`. */
export type PeftCacheConfig = Partial<PeftCacheSettings>;
export type KvCacheConfig = Partial<KvCacheSettings>;

export interface LLMOptions extends Partial<Omit<Config, ServerSetting>> {
  /** Directory of the base model. */
  readonly model: string;
  readonly loraConfig?: LoraConfig;
  readonly peftCacheConfig?: PeftCacheConfig;
  readonly kvCacheConfig?: KvCacheConfig;
}

/**
 * @throws {ConfigError} at once for a wrong option
 */
export function openLibraryRuntime(options: LLMOptions): Promise<Runtime> {
  const { config } = resolveConfig(givenOptions(options));
  // A program's own LoRARequest may name any path: it is the program's code that says it.
  return openRuntime({ ...config, adapterRoot: config.adapterRoot.length > 0 ? config.adapterRoot : ["/"] }).then(
    ({ runtime, refused }) => {
      const [first] = refused;
      if (first === undefined) return runtime;
      // In a server the others go on; a program that named the adapter wants to know before it asks.
      return runtime.close(0).then(() => Promise.reject(first.error));
    },
  );
}
