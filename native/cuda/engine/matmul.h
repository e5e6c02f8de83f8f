/** Products of base weights: cuBLASLt with the algorithm that measured fastest, or the engine's own kernel. */
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "cublaslt.h"
#include "device.h"
#include "../kernels/kernels.h"

namespace lorikeet {

class Matmul {
 public:
  /** @param library_path see `cublaslt::load` */
  explicit Matmul(const std::string& library_path);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /** out = [out +] x · weightᵀ. Everything that a shape needs is made at its first call, which must not be captured. */
  void run(const LinearArgs& args, cudaStream_t stream);

  /**
   * Measures the library's candidates for one shape and keeps the fastest.
   *
   * @param calls products of this shape on different weights, so that none is read from the cache
   */
  void tune(const std::vector<LinearArgs>& calls, cudaStream_t stream);

  /** "cuBLASLt 13.1.0", or why not. */
  std::string description() const;

 private:
  struct Shape;
  using Key = std::tuple<int, int, int, int, int, int, int, bool>;
  static Key key_of(const LinearArgs& args);
  Shape& shape_of(const LinearArgs& args);
  void run_shape(const Shape& shape, const cublaslt::Algorithm& algorithm, const LinearArgs& args, cudaStream_t stream);

  const cublaslt::Library& library_;
  cublaslt::Handle handle_ = nullptr;
  std::string refusal_;
  DeviceMemory workspace_;
  std::map<Key, std::unique_ptr<Shape>> shapes_;
};

}  // namespace lorikeet
