/** Launches kernels so that each may start while the one before it in the stream still finishes. */
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels.h"

namespace lorikeet {

/**
 * The kernel must call `wait_for_previous_kernels()` before it touches what others write. Errors stay with the
 * runtime until the engine asks for them.
 */
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Queue queue, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = queue.overlaps ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

/** For kernels that want more shared memory than the default allows, or as much as the device has; once per kernel. */
template <typename Kernel> void allow_shared_bytes(Kernel* kernel, size_t bytes) {
  int device = 0, most = 0;
  cudaFuncAttributes own = {};
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaFuncGetAttributes(&own, kernel);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, std::min(static_cast<int>(bytes), most - static_cast<int>(own.sharedSizeBytes)));
}

}  // namespace lorikeet
