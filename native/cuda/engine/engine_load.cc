#include "engine.h"

#include <cuda_bf16.h>

#include <cmath>

namespace lorikeet {

std::optional<int> Engine::load_rows(int weight, int first_row, int num_rows, Dtype dtype, const void* source, size_t bytes) {
  const WeightSpec& spec = options_.weights.at(weight);
  const size_t row_bytes = static_cast<size_t>(spec.cols) * (dtype == Dtype::f32 ? 4 : 2);
  if (first_row < 0 || num_rows < 1 || first_row + num_rows > spec.all_rows() || bytes != row_bytes * num_rows)
    throw Error("weight_invalid", "rows of a weight do not fit it");
  check(cudaSetDevice(options_.device), "choosing the device");
  if (landing_.bytes() < bytes) landing_ = DeviceMemory(bytes, "weights on their way");
  check(cudaMemsetAsync(bad_row_.as<void>(), 0xff, sizeof(uint32_t), *copy_), "loading weights");
  check(cudaMemcpyAsync(landing_.as<void>(), source, bytes, cudaMemcpyHostToDevice, *copy_), "loading weights");
  const int stride = aligned_width(spec.cols);
  const int64_t at = static_cast<int64_t>(first_row) * stride;
  if (spec.kind == WEIGHT_KIND_MATRIX) {
    convert_matrix(landing_.as<void>(), dtype, num_rows, spec.cols, weights_[weight].as<bf16>() + at, stride, bad_row_.as<uint32_t>(), *copy_);
  } else if (spec.kind == WEIGHT_KIND_EXACT) {
    convert_matrix(landing_.as<void>(), dtype, num_rows, spec.cols, weights_[weight].as<float>() + at, stride, bad_row_.as<uint32_t>(), *copy_);
  } else {
    convert_vector(landing_.as<void>(), dtype, num_rows, weights_[weight].as<float>() + first_row, bad_row_.as<uint32_t>(), *copy_);
  }
  check(cudaGetLastError(), "loading weights");
  uint32_t bad_row = 0;
  check(cudaMemcpyAsync(&bad_row, bad_row_.as<void>(), sizeof bad_row, cudaMemcpyDeviceToHost, *copy_), "loading weights");
  check(cudaStreamSynchronize(*copy_), "loading weights");
  if (bad_row == ~0u) return std::nullopt;
  return static_cast<int>(bad_row);
}

void Engine::fill_random(uint64_t seed) {
  for (size_t i = 0; i < weights_.size(); i++) {
    const WeightSpec& spec = options_.weights[i];
    const float deviation = 1.0f / std::sqrt(static_cast<float>(spec.cols));
    const uint64_t own_seed = seed * 0x10001 + i;
    if (spec.kind == WEIGHT_KIND_MATRIX) random_matrix(weights_[i].as<bf16>(), spec.all_rows(), spec.cols, aligned_width(spec.cols), deviation, own_seed, *copy_);
    else if (spec.kind == WEIGHT_KIND_EXACT) random_matrix(weights_[i].as<float>(), spec.all_rows(), spec.cols, aligned_width(spec.cols), deviation, own_seed, *copy_);
    else fill_vector(weights_[i].as<float>(), spec.rows, 1.0f, *copy_);
  }
  check(cudaGetLastError(), "filling weights");
  check(cudaStreamSynchronize(*copy_), "filling weights");
}

void Engine::load_rope_table(const float* table, size_t count) {
  if (count * sizeof(float) != rope_table_.bytes()) throw Error("weight_invalid", "the rotation table has another size");
  check(cudaMemcpy(rope_table_.as<void>(), table, rope_table_.bytes(), cudaMemcpyHostToDevice), "loading the rotation table");
}

}  // namespace lorikeet
