/** The one exception of the engine, and the check after every CUDA call. */
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace lorikeet {

/** `code` is public and stable; the message is one sentence for a person. */
struct Error : std::runtime_error {
  std::string code;
  Error(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
};

/** @throws Error `cuda_failed`, or `out_of_memory` */
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const bool memory = status == cudaErrorMemoryAllocation;
  throw Error(memory ? "out_of_memory" : "cuda_failed", std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

}  // namespace lorikeet
