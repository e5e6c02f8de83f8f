#include "source_matrix.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <string>

#include "error.h"

namespace lorikeet {

float value_at(const SourceMatrix& matrix, size_t i) {
  switch (matrix.dtype) {
    case Dtype::f32: {
      float value;
      std::memcpy(&value, static_cast<const uint8_t*>(matrix.data) + i * 4, 4);
      return value;
    }
    case Dtype::f16: {
      __half_raw raw;
      std::memcpy(&raw.x, static_cast<const uint8_t*>(matrix.data) + i * 2, 2);
      return __half2float(__half(raw));
    }
    case Dtype::bf16: {
      uint32_t bits = 0;
      std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, static_cast<const uint8_t*>(matrix.data) + i * 2, 2);
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
  }
  return NAN;
}

namespace {

/** Rounds to nearest even. */
uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void require_finite(bool finite, int row) {
  if (!finite) throw Error("adapter_invalid", "the adapter has a value that is not finite in row " + std::to_string(row) + " of a matrix");
}

}  // namespace

void round_row(const SourceMatrix& matrix, int row, uint16_t* bits) {
  const size_t first = static_cast<size_t>(row) * matrix.cols;
  bool finite = true;
  if (matrix.dtype == Dtype::bf16) {
    std::memcpy(bits, static_cast<const uint8_t*>(matrix.data) + first * 2, static_cast<size_t>(matrix.cols) * 2);
  } else {
    for (int i = 0; i < matrix.cols; i++) {
      const float value = value_at(matrix, first + i);
      /* Rounding carries a NaN of all ones into zero. */
      finite &= std::isfinite(value);
      bits[i] = bfloat16_bits(value);
    }
  }
  /* The largest float32 numbers round up to infinity. */
  for (int i = 0; i < matrix.cols; i++) finite &= (bits[i] & 0x7f80u) != 0x7f80u;
  require_finite(finite, row);
}

void widen_row(const SourceMatrix& matrix, int row, float* numbers) {
  bool finite = true;
  for (int i = 0; i < matrix.cols; i++) {
    numbers[i] = value_at(matrix, static_cast<size_t>(row) * matrix.cols + i);
    finite &= std::isfinite(numbers[i]);
  }
  require_finite(finite, row);
}

}  // namespace lorikeet
