/** Matrices as they lie in files, and their rows as the device keeps them. */
#pragma once
#include <stdint.h>

#include "../kernels/kernels.h"

namespace lorikeet {

/** Row-major numbers, at any byte. */
struct SourceMatrix {
  Dtype dtype;
  int rows, cols;
  const void* data;
};

/** @throws Error `adapter_invalid` for a number that is not finite in bfloat16 */
void round_row(const SourceMatrix& matrix, int row, uint16_t* bits);
/** In float32, which loses nothing. @throws Error `adapter_invalid` for a number that is not finite */
void widen_row(const SourceMatrix& matrix, int row, float* numbers);

/** Of a matrix of any type, in float32. */
float value_at(const SourceMatrix& matrix, size_t i);

}  // namespace lorikeet
