/** Launches kernels so that each may start while the one before it in the stream still finishes. */
#pragma once
#include <cuda_runtime.h>

#include <utility>

#include "kernels.h"

namespace lorikeet {

/**
 * The kernel must call `wait_for_previous_kernels()` before it touches what others write. Errors stay with the
 * runtime until the engine asks for them.
 *
 * @param cluster neighbouring blocks along x that run together; 1 for none
 */
template <typename... Parameters, typename... Arguments>
void launch_clusters(void (*kernel)(Parameters...), int cluster, dim3 grid, dim3 block, size_t shared_bytes, Queue queue, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (queue.overlaps) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& shape = attributes[config.numAttrs++];
    shape.id = cudaLaunchAttributeClusterDimension;
    shape.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  }
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Queue queue, Arguments&&... arguments) {
  launch_clusters(kernel, 1, grid, block, shared_bytes, queue, std::forward<Arguments>(arguments)...);
}

/** For kernels that want more shared memory than the default allows; once per kernel. */
template <typename Kernel> void allow_shared_bytes(Kernel* kernel, size_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

}  // namespace lorikeet
