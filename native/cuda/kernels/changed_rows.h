/** Rows of a base matrix as an adapter changes them, for kernels and for the host that tests them. */
#pragma once
#include <cuda_bf16.h>

#include "adapter_layout.h"
#include "kernels.h"

namespace lorikeet {

constexpr int COLUMNS_AT_ONCE = 8;

/** Neighbouring columns of a bfloat16 W or of one rank of A: one access. */
struct alignas(16) Columns {
  bf16 numbers[COLUMNS_AT_ONCE];
};

/** The part of |row|² of W + scale · B · A that the `worker`th of `workers` sums; rows end in zeros up to their stride. */
LORIKEET_BOTH float changed_squares(const GainArgs& args, int output, int worker, int workers) {
  const DeltaRecord& delta = args.delta;
  const int64_t row = static_cast<int64_t>(delta.offset + output) * args.weight_stride;
  float squares = 0.0f;
  for (int column = worker * COLUMNS_AT_ONCE; column < args.weight_stride; column += workers * COLUMNS_AT_ONCE) {
    float values[COLUMNS_AT_ONCE];
    if (args.exact != nullptr) {
      for (int i = 0; i < COLUMNS_AT_ONCE; i++) values[i] = args.exact[row + column + i];
    } else {
      const Columns base = *reinterpret_cast<const Columns*>(args.weight + row + column);
      for (int i = 0; i < COLUMNS_AT_ONCE; i++) values[i] = __bfloat162float(base.numbers[i]);
    }
    for (int rank = 0; rank < delta.rank; rank++) {
      const float factor = delta.scale * __bfloat162float(delta.b[b_index(output, rank, delta.rank, delta.width)]);
      const Columns a = *reinterpret_cast<const Columns*>(args.a + a_index(delta.rank_offset + rank, column, args.a_steps));
      for (int i = 0; i < COLUMNS_AT_ONCE; i++) values[i] += factor * __bfloat162float(a.numbers[i]);
    }
    for (int i = 0; i < COLUMNS_AT_ONCE; i++) squares += values[i] * values[i];
  }
  return squares;
}

}  // namespace lorikeet
