/** The CUDA backend where there is one, and the reason where there is none. */
import type { Backend, BackendOptions } from "../../src/backend/backend.ts";
import { chooseBackend } from "../../src/backend/choose-backend.ts";
import { type CudaOptions, openCudaBackend } from "../../src/backend/cuda/cuda-backend.ts";

/** Why the tests that need a device do not run here; `null` where they do. */
export const noCudaReason: string | null = (() => {
  try {
    chooseBackend("cuda");
    return null;
  } catch (thrown) {
    return thrown instanceof Error ? thrown.message : String(thrown);
  }
})();

/** Bfloat16 whatever the case asks for: the only format on this device. */
export const openCuda = (options: BackendOptions & Partial<CudaOptions>): Promise<Backend> => openCudaBackend({ ...options, format: "bfloat16" });
