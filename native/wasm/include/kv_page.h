/**
 * Where keys and values of one position lie.
 *
 *   page = [layers][kv_heads] of { K: f32[head_dim_padded][PAGE_TOKENS], V: f32[PAGE_TOKENS][head_dim_padded] }
 *
 * K is stored by dimension so that one vector holds the same dimension of four positions: scores of a whole
 * page need no horizontal sums.
 */
#pragma once
#include "executor.h"

static inline uint32_t kv_head_floats(const uint32_t* control) {
  return 2 * PAGE_TOKENS * control[CONTROL_HEAD_DIM_PADDED];
}

static inline float* kv_head(const uint32_t* control, const uint32_t* op, uint32_t page, uint32_t kv_head_index) {
  return (float*)address(control[CONTROL_KV_PAGES] + page * control[CONTROL_PAGE_BYTES] + op[OPERATION_LAYER_OFFSET]) +
         kv_head_index * kv_head_floats(control);
}

static inline const int32_t* sequence_of_row(const step_t* step, uint32_t row) {
  const int32_t* block = step->block;
  const uint32_t sequence = (uint32_t)block[block[STEP_HEADER_SEQUENCE_OF_ROW_AT] + (int32_t)row];
  return block + block[STEP_HEADER_SEQUENCES_AT] + sequence * SEQUENCE_WORDS;
}

static inline const int32_t* page_table(const step_t* step, const int32_t* sequence) {
  return step->block + step->block[STEP_HEADER_PAGES_AT] + sequence[SEQUENCE_PAGES_START];
}
