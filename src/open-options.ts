/** From the configuration to what the runtime is opened with. */
import type { Config } from "./config/settings.ts";
import { ConfigError } from "./core/errors.ts";
import type { OpenOptions } from "./runtime/open-runtime.ts";

/** @throws {ConfigError} `config_invalid` for a setting that means something not served yet */
export function openOptions(config: Config): OpenOptions {
  const { loraConfig, peftCacheConfig, kvCacheConfig } = config;
  refuseUnserved(config);
  return {
    model: config.model,
    name: config.servedModelName,
    backend: config.backend,
    format: config.dtype === "auto" ? "bfloat16" : config.dtype,
    numThreads: config.threads,
    maxRows: config.maxNumTokens,
    maxWaitingRequests: config.maxQueue,
    requestTimeoutMs: config.requestTimeoutS * 1000,
    loraDirs: loraConfig.loraDir,
    adapterRoots: config.adapterRoot,
    memory: {
      kvTokens: kvCacheConfig.maxTokens,
      maxSequences: config.maxBatchSize,
      maxContext: config.maxSeqLen,
      maxRank: loraConfig.maxLoraRank,
      maxLoras: loraConfig.maxLoras,
      maxCpuLoras: loraConfig.maxCpuLoras,
      devicePart: peftCacheConfig.deviceCachePercent,
      deviceModuleLayers: peftCacheConfig.numDeviceModuleLayer,
      hostModuleLayers: peftCacheConfig.numHostModuleLayer,
      hostBytes: peftCacheConfig.hostCacheSize,
    },
  };
}

/** Adapters that need these would be answered wrongly without them. */
function refuseUnserved({ loraConfig }: Config): void {
  if (loraConfig.loraCkptSource === "nemo") {
    throw unserved("lora_config.lora_ckpt_source", "nemo is not served yet; convert the adapters to PEFT's format");
  }
  if (Object.keys(loraConfig.trtllmModulesToHfModules).length > 0) {
    throw unserved("lora_config.trtllm_modules_to_hf_modules", "is not served yet; adapters are matched by the model's own module names");
  }
  if (!loraConfig.swapGateUpProjLoraBWeight) {
    throw unserved("lora_config.swap_gate_up_proj_lora_b_weight", "false is not served yet; fused halves are read in PEFT's order, gate then up");
  }
}

const unserved = (field: string, problem: string): ConfigError => new ConfigError("config_invalid", `${field} ${problem}`, { field });
