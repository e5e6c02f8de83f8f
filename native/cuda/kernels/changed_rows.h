/** Rows and columns of a base matrix as an adapter changes them, for kernels and for the host that tests them. */
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

/** Which of an adapter's own rows is that of an output or a token; below 0 for none. */
LORIKEET_BOTH int own_index(const FormRecord& form, int id) {
  /* Ids ascend, so none lies behind its own number; those of whole matrices lie there. */
  int low = 0, high = id < form.num_rows ? id + 1 : form.num_rows;
  if (id < form.num_rows && form.row_ids[id] == id) return id;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (form.row_ids[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < form.num_rows && form.row_ids[low] == id ? low : -1;
}

/** The row itself, or null. Neighbouring rows are `stride` apart. */
LORIKEET_BOTH const bf16* own_row(const FormRecord& form, int id, int stride) {
  const int index = own_index(form, id);
  return index < 0 ? nullptr : form.rows + static_cast<int64_t>(index) * stride;
}

/** The part of |row|² of W + scale · B · A that the `worker`th of `workers` sums; rows end in zeros up to their stride. */
LORIKEET_BOTH float changed_squares(const GainArgs& args, int output, int worker, int workers) {
  const DeltaRecord& delta = args.delta;
  const int own = own_index(args.own, delta.offset + output);
  const int64_t row = static_cast<int64_t>(own < 0 ? delta.offset + output : own) * args.weight_stride;
  const bf16* const matrix = own < 0 ? args.weight : args.own.rows;
  const float* const exact = own < 0 ? args.exact : args.own.exact_rows;
  float squares = 0.0f;
  for (int column = worker * COLUMNS_AT_ONCE; column < args.weight_stride; column += workers * COLUMNS_AT_ONCE) {
    float values[COLUMNS_AT_ONCE];
    if (exact != nullptr) {
      for (int i = 0; i < COLUMNS_AT_ONCE; i++) values[i] = exact[row + column + i];
    } else {
      const Columns base = *reinterpret_cast<const Columns*>(matrix + row + column);
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

/** What A and B make of token and output of an embedding, whose x has a one at the token, before scaling. */
LORIKEET_BOTH float embedded(const bf16* a, int a_steps, const DeltaRecord& delta, int token, int output) {
  float sum = 0.0f;
  for (int rank = 0; rank < delta.rank; rank += RANK_GROUP) {
    /* Ranks of a group are neighbours in B; those beyond the last are zeros in both. */
    const Columns b = *reinterpret_cast<const Columns*>(delta.b + b_index(output, rank, delta.rank, delta.width));
    for (int i = 0; i < RANK_GROUP; i++) sum += __bfloat162float(b.numbers[i]) * __bfloat162float(a[a_index(delta.rank_offset + rank + i, token, a_steps)]);
  }
  return sum;
}

/** The part of |column|² of an embedding that the `worker`th of `workers` sums. */
LORIKEET_BOTH float changed_column_squares(const GainArgs& args, int output, int worker, int workers) {
  const DeltaRecord& delta = args.delta;
  float squares = 0.0f;
  for (int token = worker; token < args.num_tokens; token += workers) {
    const bf16* row = own_row(args.own, token, args.weight_stride);
    if (row == nullptr) row = args.weight + static_cast<int64_t>(token) * args.weight_stride;
    const float value = __bfloat162float(row[delta.offset + output]) + delta.scale * embedded(args.a, args.a_steps, delta, token, output);
    squares += value * value;
  }
  return squares;
}

}  // namespace lorikeet
