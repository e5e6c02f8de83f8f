/**
 * Causal attention of each row over its sequence's pages.
 *
 * One item is a row and a pair of query heads that share a kv head, so every key and value loaded serves
 * two heads. All scores of a row are kept, then normalised, then applied: sums run over positions in
 * ascending order whatever else is in the step, so a row's bits depend on its own sequence alone.
 */
#include <wasm_simd128.h>

#include "executor.h"
#include "kv_page.h"
#include "vector_math.h"

_Static_assert(PAGE_TOKENS == 16, "four score vectors per page");

#define DUP(v, lane) wasm_i32x4_shuffle(v, v, lane, lane, lane, lane)

typedef struct {
  const uint32_t* control;
  const uint32_t* op;
  const int32_t* pages;
  uint32_t kv;
  uint32_t first; /* first visible position */
  uint32_t last;  /* last visible position: the row's own */
} span_t;

/* One dimension: four score vectors of each head gain q[d] * K[d]. */
#define SCORE_STEP(lane)                                                                     \
  {                                                                                          \
    const float* k = keys + (d + lane) * PAGE_TOKENS;                                        \
    const v128_t k0 = wasm_v128_load(k), k1 = wasm_v128_load(k + 4);                         \
    const v128_t k2 = wasm_v128_load(k + 8), k3 = wasm_v128_load(k + 12);                    \
    const v128_t x = DUP(qa, lane);                                                          \
    a0 = wasm_f32x4_add(a0, wasm_f32x4_mul(x, k0));                                          \
    a1 = wasm_f32x4_add(a1, wasm_f32x4_mul(x, k1));                                          \
    a2 = wasm_f32x4_add(a2, wasm_f32x4_mul(x, k2));                                          \
    a3 = wasm_f32x4_add(a3, wasm_f32x4_mul(x, k3));                                          \
    const v128_t y = DUP(qb, lane);                                                          \
    b0 = wasm_f32x4_add(b0, wasm_f32x4_mul(y, k0));                                          \
    b1 = wasm_f32x4_add(b1, wasm_f32x4_mul(y, k1));                                          \
    b2 = wasm_f32x4_add(b2, wasm_f32x4_mul(y, k2));                                          \
    b3 = wasm_f32x4_add(b3, wasm_f32x4_mul(y, k3));                                          \
  }

/* Scores of one page for two heads; q rows are padded with zeros to a multiple of four. */
static __attribute__((noinline)) void score_page(const float* keys, const float* q, uint32_t padded, float scale,
                                                 float* scores_a, float* scores_b) {
  v128_t a0 = wasm_f32x4_const_splat(0.0f), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (uint32_t d = 0; d < padded; d += 4) {
    const v128_t qa = wasm_v128_load(q + d), qb = wasm_v128_load(q + padded + d);
    SCORE_STEP(0) SCORE_STEP(1) SCORE_STEP(2) SCORE_STEP(3)
  }
  const v128_t s = wasm_f32x4_splat(scale);
  wasm_v128_store(scores_a, wasm_f32x4_mul(a0, s));
  wasm_v128_store(scores_a + 4, wasm_f32x4_mul(a1, s));
  wasm_v128_store(scores_a + 8, wasm_f32x4_mul(a2, s));
  wasm_v128_store(scores_a + 12, wasm_f32x4_mul(a3, s));
  wasm_v128_store(scores_b, wasm_f32x4_mul(b0, s));
  wasm_v128_store(scores_b + 4, wasm_f32x4_mul(b1, s));
  wasm_v128_store(scores_b + 8, wasm_f32x4_mul(b2, s));
  wasm_v128_store(scores_b + 12, wasm_f32x4_mul(b3, s));
}

/* Turns scores into exp(score - max), in place, and returns 1 / their sum. `count` is a multiple of four. */
static float softmax(float* scores, uint32_t count) {
  v128_t largest = wasm_v128_load(scores);
  for (uint32_t i = 4; i < count; i += 4) largest = wasm_f32x4_pmax(largest, wasm_v128_load(scores + i));
  const v128_t offset = wasm_f32x4_splat(horizontal_max(largest));
  v128_t sum = wasm_f32x4_const_splat(0.0f);
  for (uint32_t i = 0; i < count; i += 4) {
    const v128_t e = exp_f32x4(wasm_f32x4_sub(wasm_v128_load(scores + i), offset));
    wasm_v128_store(scores + i, e);
    sum = wasm_f32x4_add(sum, e);
  }
  return 1.0f / horizontal_sum(sum);
}

/* Adds the values of positions [begin, end) of one page to both heads' outputs, 16 dimensions at a time. */
static __attribute__((noinline)) void weigh_page(const float* values, uint32_t padded, const float* wa, const float* wb,
                                                 uint32_t begin, uint32_t end, float* out_a, float* out_b) {
  uint32_t d = 0;
  for (; d + 16 <= padded; d += 16) {
    v128_t a0 = wasm_v128_load(out_a + d), a1 = wasm_v128_load(out_a + d + 4);
    v128_t a2 = wasm_v128_load(out_a + d + 8), a3 = wasm_v128_load(out_a + d + 12);
    v128_t b0 = wasm_v128_load(out_b + d), b1 = wasm_v128_load(out_b + d + 4);
    v128_t b2 = wasm_v128_load(out_b + d + 8), b3 = wasm_v128_load(out_b + d + 12);
    for (uint32_t t = begin; t < end; t++) {
      const float* v = values + t * padded + d;
      const v128_t v0 = wasm_v128_load(v), v1 = wasm_v128_load(v + 4), v2 = wasm_v128_load(v + 8), v3 = wasm_v128_load(v + 12);
      const v128_t x = wasm_v128_load32_splat(wa + t);
      a0 = wasm_f32x4_add(a0, wasm_f32x4_mul(x, v0));
      a1 = wasm_f32x4_add(a1, wasm_f32x4_mul(x, v1));
      a2 = wasm_f32x4_add(a2, wasm_f32x4_mul(x, v2));
      a3 = wasm_f32x4_add(a3, wasm_f32x4_mul(x, v3));
      const v128_t y = wasm_v128_load32_splat(wb + t);
      b0 = wasm_f32x4_add(b0, wasm_f32x4_mul(y, v0));
      b1 = wasm_f32x4_add(b1, wasm_f32x4_mul(y, v1));
      b2 = wasm_f32x4_add(b2, wasm_f32x4_mul(y, v2));
      b3 = wasm_f32x4_add(b3, wasm_f32x4_mul(y, v3));
    }
    wasm_v128_store(out_a + d, a0); wasm_v128_store(out_a + d + 4, a1);
    wasm_v128_store(out_a + d + 8, a2); wasm_v128_store(out_a + d + 12, a3);
    wasm_v128_store(out_b + d, b0); wasm_v128_store(out_b + d + 4, b1);
    wasm_v128_store(out_b + d + 8, b2); wasm_v128_store(out_b + d + 12, b3);
  }
  for (; d < padded; d += 4) {
    v128_t a = wasm_v128_load(out_a + d), b = wasm_v128_load(out_b + d);
    for (uint32_t t = begin; t < end; t++) {
      const v128_t v = wasm_v128_load(values + t * padded + d);
      a = wasm_f32x4_add(a, wasm_f32x4_mul(wasm_v128_load32_splat(wa + t), v));
      b = wasm_f32x4_add(b, wasm_f32x4_mul(wasm_v128_load32_splat(wb + t), v));
    }
    wasm_v128_store(out_a + d, a);
    wasm_v128_store(out_b + d, b);
  }
}

/* Both heads of a pair; an odd head out is paired with itself. `memory` holds q, outputs and scores. */
static void attend_pair(const span_t* span, const float* qa, const float* qb, float* out_a, float* out_b, float* memory) {
  const uint32_t* control = span->control;
  const uint32_t head_dim = control[CONTROL_HEAD_DIM], padded = control[CONTROL_HEAD_DIM_PADDED];
  float* q = memory;
  float* sums = q + 2 * padded;
  const uint32_t first_page = span->first / PAGE_TOKENS, last_page = span->last / PAGE_TOKENS;
  const uint32_t count = (last_page - first_page + 1) * PAGE_TOKENS;
  float* scores_a = sums + 2 * padded;
  float* scores_b = scores_a + count;

  for (uint32_t d = 0; d < padded; d++) {
    q[d] = d < head_dim ? qa[d] : 0.0f;
    q[padded + d] = d < head_dim ? qb[d] : 0.0f;
    sums[d] = sums[padded + d] = 0.0f;
  }
  const float scale = float_of(control[CONTROL_SCORE_SCALE]);
  for (uint32_t page = first_page; page <= last_page; page++) {
    const uint32_t at = (page - first_page) * PAGE_TOKENS;
    score_page(kv_head(control, span->op, (uint32_t)span->pages[page], span->kv), q, padded, scale, scores_a + at, scores_b + at);
  }
  /* Positions outside the span are overwritten, not multiplied away: stale memory may hold anything. */
  const uint32_t origin = first_page * PAGE_TOKENS;
  for (uint32_t t = 0; t < span->first - origin; t++) scores_a[t] = scores_b[t] = -__builtin_inff();
  for (uint32_t t = span->last - origin + 1; t < count; t++) scores_a[t] = scores_b[t] = -__builtin_inff();

  const float norm_a = softmax(scores_a, count), norm_b = softmax(scores_b, count);
  for (uint32_t page = first_page; page <= last_page; page++) {
    const uint32_t at = (page - first_page) * PAGE_TOKENS;
    const uint32_t begin = page == first_page ? span->first - origin : 0;
    const uint32_t end = page == last_page ? span->last - page * PAGE_TOKENS + 1 : PAGE_TOKENS;
    const float* values = kv_head(control, span->op, (uint32_t)span->pages[page], span->kv) + PAGE_TOKENS * padded;
    weigh_page(values, padded, scores_a + at, scores_b + at, begin, end, sums, sums + padded);
  }
  for (uint32_t d = 0; d < head_dim; d++) {
    out_a[d] = sums[d] * norm_a;
    out_b[d] = sums[padded + d] * norm_b;
  }
}

void run_attention(step_t* step, const uint32_t* op) {
  const uint32_t* control = step->control;
  const uint32_t num_kv_heads = control[CONTROL_NUM_KV_HEADS], head_dim = control[CONTROL_HEAD_DIM];
  const uint32_t group = control[CONTROL_NUM_HEADS] / num_kv_heads;
  const uint32_t pairs = (group + 1) / 2;
  const uint32_t window = op[OPERATION_N];
  const int32_t* positions = step->block + step->block[STEP_HEADER_POSITIONS_AT];
  const uint32_t total = step->num_rows * num_kv_heads * pairs;

  for (uint32_t item = claim(step, 0, 1); item < total; item = claim(step, 0, 1)) {
    const uint32_t pair = item % pairs, kv = item / pairs % num_kv_heads, row = item / pairs / num_kv_heads;
    const uint32_t position = (uint32_t)positions[row];
    const span_t span = {
        .control = control,
        .op = op,
        .pages = page_table(step, sequence_of_row(step, row)),
        .kv = kv,
        .first = window != 0 && position + 1 > window ? position + 1 - window : 0,
        .last = position,
    };
    const uint32_t a = kv * group + 2 * pair, b = 2 * pair + 1 < group ? a + 1 : a;
    const float* q = (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
    float* out = (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
    attend_pair(&span, q + a * head_dim, q + b * head_dim, out + a * head_dim, out + b * head_dim, scratch(step));
  }
  barrier(step);
}
