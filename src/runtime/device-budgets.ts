/** What of the device's pool is whose at most, so that nobody waits for ever. */
import type { BackendInfo } from "../backend/backend.ts";

export interface DeviceBudgets {
  /** Most bytes of all adapters. */
  readonly adapterBytes: number;
  /** Longest sequence, in tokens: adapters always leave it its pages. */
  readonly maxContext: number;
}

/**
 * @param maxContext most positions that model and settings allow
 * @param adapterBytes as the settings say; `null` for what one sequence of the longest context leaves
 */
export function deviceBudgets(
  { numExtents, extentBytes, numPages, pageTokens }: Pick<BackendInfo, "numExtents" | "extentBytes" | "numPages" | "pageTokens">,
  maxContext: number,
  adapterBytes: number | null,
): DeviceBudgets {
  const contextPages = Math.min(Math.ceil(maxContext / pageTokens), numPages);
  const adapterExtents = Math.min(numExtents, adapterBytes === null ? numExtents - contextPages : Math.ceil(adapterBytes / extentBytes));
  return {
    adapterBytes: adapterExtents * extentBytes,
    maxContext: Math.min(maxContext, pageTokens * Math.min(numPages, numExtents - adapterExtents)),
  };
}
