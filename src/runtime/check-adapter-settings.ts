/** Settings of adapters that are good by themselves and not together. */
import { ConfigError } from "../core/errors.ts";
import { isAllowed, type TargetModules } from "../lora/target-modules.ts";
import { layerSites, type Program } from "../model/program.ts";
import type { MemorySizes, MemoryWish } from "./size-memory.ts";

/** @throws {ConfigError} `config_invalid` for fewer adapters in host memory than on the device */
export function checkAdapterNumbers({ maxLoras, maxCpuLoras }: { readonly maxLoras: number | null; readonly maxCpuLoras: number | null }): void {
  if (maxLoras === null || maxCpuLoras === null || maxCpuLoras >= maxLoras) return;
  throw new ConfigError(
    "config_invalid",
    `max_cpu_loras is ${maxCpuLoras} and max_loras ${maxLoras}, but host memory holds at least what the device does; raise max_cpu_loras to ${maxLoras}, or lower max_loras`,
    { field: "lora_config.max_cpu_loras" },
  );
}

/**
 * A cache that somebody sized must hold one adapter of the largest rank, as TensorRT-LLM's must; a host cache of 0
 * keeps none, which is a choice.
 *
 * @throws {ConfigError} `config_invalid` naming the setting and both sizes
 */
export function checkCacheSizes(
  program: Program,
  wish: MemoryWish,
  { adapterBytes, hostCacheBytes }: MemorySizes,
  allowed: TargetModules | null,
  bytesPerNumber: number,
): void {
  const needed = oneAdapterBytes(program, wish.maxRank, allowed) * bytesPerNumber;
  const tooSmall = (field: string, bytes: number): ConfigError =>
    new ConfigError(
      "config_invalid",
      `peft_cache_config.${field} gives adapters ${bytes} bytes, and one of rank ${wish.maxRank} may need ${needed}; raise it, or lower max_lora_rank`,
      { field: `peft_cache_config.${field}` },
    );
  if (adapterBytes < needed) {
    if (wish.deviceModuleLayers > 0) throw tooSmall("num_device_module_layer", adapterBytes);
    if (wish.maxLoras === null && wish.devicePart !== null && wish.devicePart > 0) throw tooSmall("device_cache_percent", adapterBytes);
  }
  if (hostCacheBytes < needed) {
    if (wish.hostModuleLayers > 0) throw tooSmall("num_host_module_layer", hostCacheBytes);
    if (wish.maxCpuLoras === null && hostCacheBytes > 0 && hostCacheBytes !== DEFAULT_HOST_BYTES) throw tooSmall("host_cache_size", hostCacheBytes);
  }
}

/** What nobody set is nobody's mistake. */
const DEFAULT_HOST_BYTES = 1024 ** 3;

/** Numbers in A and B of every module of the base that adapters may change. */
const oneAdapterBytes = (program: Program, rank: number, allowed: TargetModules | null): number =>
  rank *
  layerSites(program)
    .flatMap((site) => site.modules.filter((module) => module.own && (allowed === null || isAllowed(site, module, allowed))).map(({ width }) => site.inWidth + width))
    .reduce((sum, each) => sum + each, 0);
