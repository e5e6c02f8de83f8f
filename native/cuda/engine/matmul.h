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
  /**
   * @param library_path see `cublaslt::load`
   * @param widest most outputs of any product
   */
  Matmul(const std::string& library_path, int num_multiprocessors, int widest);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /**
   * out = [out +] x · weightᵀ. Everything that a shape needs is made at its first call, which must not be captured.
   *
   * @param shares_device adapters' kernels run beside this product, and need it to leave them room
   */
  void run(const LinearArgs& args, bool shares_device, Queue queue);

  /**
   * Measures the library's candidates and the own kernel for one shape and keeps the fastest.
   *
   * @param calls products of this shape on different weights, so that none is read from the cache
   * @param shares_device also finds a way to do it that leaves multiprocessors to others
   */
  void tune(const std::vector<LinearArgs>& calls, bool shares_device, Queue queue);

  /** "cuBLASLt 13.1.0", or why not. */
  std::string description() const;

 private:
  struct Shape;
  using Key = std::tuple<int, int, int, int, int, int, int, bool, bool>;
  static Key key_of(const LinearArgs& args, bool shares_device);
  /** @param num_multiprocessors that the library should use; 0 for all */
  std::unique_ptr<Shape> make_shape(const LinearArgs& args, int num_multiprocessors);
  Shape& shape_of(const LinearArgs& args, bool shares_device);
  void run_small(const LinearArgs& args, Queue queue);
  void run_shape(const Shape& shape, const cublaslt::Algorithm& algorithm, const LinearArgs& args, cudaStream_t stream);

  const cublaslt::Library& library_;
  cublaslt::Handle handle_ = nullptr;
  std::string refusal_;
  DeviceMemory workspace_, partial_, arrived_;
  int num_blocks_;
  bool streams_; /* products of few rows by linear_stream */
  std::map<Key, std::unique_ptr<Shape>> shapes_;
};

}  // namespace lorikeet
