/** Copies between page-locked host memory and the device. */
#include <algorithm>

#include "kernels.h"

namespace lorikeet {
namespace {

constexpr int THREADS = 256, MAX_BLOCKS = 64;

__global__ void copy_kernel(const int4* from, int4* to, int count) {
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < count; i += gridDim.x * THREADS) to[i] = from[i];
  /* Kernels of the step look at parts of its block before they wait for those in front of them. */
  __threadfence();
}

}  // namespace

void copy_by_threads(const void* from, void* to, size_t bytes, cudaStream_t stream) {
  const int count = static_cast<int>(bytes / sizeof(int4));
  copy_kernel<<<std::clamp((count + THREADS - 1) / THREADS, 1, MAX_BLOCKS), THREADS, 0, stream>>>(static_cast<const int4*>(from), static_cast<int4*>(to), count);
}

}  // namespace lorikeet
