/** Rotary positions of q and k, and the write of k and v into their page. */
#include "executor.h"
#include "kv_page.h"

/* Pairs (i, i + half), the layout of Hugging Face checkpoints. `table` is cosines then sines. */
static void rotate(float* head, const float* table, uint32_t half) {
  const float *cosines = table, *sines = table + half;
  for (uint32_t i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i] + a * sines[i];
  }
}

void run_rope_kv_write(step_t* step, const uint32_t* op) {
  const uint32_t* control = step->control;
  const uint32_t num_heads = control[CONTROL_NUM_HEADS], num_kv_heads = control[CONTROL_NUM_KV_HEADS];
  const uint32_t head_dim = control[CONTROL_HEAD_DIM], padded = control[CONTROL_HEAD_DIM_PADDED];
  const uint32_t rotary_dim = control[CONTROL_ROTARY_DIM];
  const int32_t* positions = step->block + step->block[STEP_HEADER_POSITIONS_AT];

  /* Items are whole kv groups: a group's query heads, its key head and its value head. */
  const uint32_t group = num_heads / num_kv_heads;
  const uint32_t total = step->num_rows * num_kv_heads;
  for (uint32_t item = claim(step, 0, 1); item < total; item = claim(step, 0, 1)) {
    const uint32_t row = item / num_kv_heads, kv = item % num_kv_heads;
    const uint32_t position = (uint32_t)positions[row];
    float* q = (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
    float* k = q + (num_heads + kv) * head_dim;
    const float* v = q + (num_heads + num_kv_heads + kv) * head_dim;
    const float* table = (float*)address(control[CONTROL_ROPE_TABLE]) + (uintptr_t)position * rotary_dim;

    for (uint32_t h = 0; h < group; h++) rotate(q + (kv * group + h) * head_dim, table, rotary_dim / 2);
    rotate(k, table, rotary_dim / 2);

    const uint32_t page = (uint32_t)page_table(step, sequence_of_row(step, row))[position / PAGE_TOKENS];
    float* keys = kv_head(control, op, page, kv) + position % PAGE_TOKENS;
    float* values = kv_head(control, op, page, kv) + PAGE_TOKENS * padded + position % PAGE_TOKENS * padded;
    for (uint32_t d = 0; d < head_dim; d++) {
      keys[d * PAGE_TOKENS] = k[d];
      values[d] = v[d];
    }
    /* Scores read the padding, times zero: what lay here before may not be finite. */
    for (uint32_t d = head_dim; d < padded; d++) keys[d * PAGE_TOKENS] = 0.0f;
  }
  barrier(step);
}
