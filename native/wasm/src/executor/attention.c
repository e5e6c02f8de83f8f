/**
 * Causal attention of each row over its sequence's pages.
 *
 * One item is a row and up to three query heads that share a kv head, so every key and value loaded serves
 * all of them. All scores of a row are kept, then normalised, then applied: sums run over positions in
 * ascending order whatever else is in the step, so a row's bits depend on its own sequence alone.
 */
#include <wasm_simd128.h>

#include "executor.h"
#include "kv_page.h"
#include "repeat.h"
#include "vector_math.h"

_Static_assert(PAGE_TOKENS % 8 == 0, "scores of eight positions at a time");

_Static_assert(MAX_QUERY_HEADS == 3, "one kernel for each number of heads");

typedef struct {
  const uint32_t* control;
  const uint32_t* op;
  const int32_t* pages;
  uint32_t kv;
  uint32_t first; /* first visible position */
  uint32_t last;  /* last visible position: the row's own */
  int is_cold;    /* no row before this one in the step has read these pages */
} span_t;

#define ZERO(h) v128_t low##h = wasm_f32x4_const_splat(0.0f), high##h = low##h;
#define GAIN(h, x, a, b)                              \
  low##h = wasm_f32x4_add(low##h, wasm_f32x4_mul(x, a)); \
  high##h = wasm_f32x4_add(high##h, wasm_f32x4_mul(x, b));

/*
 * Scores of one page: of head h at scores + h * stride. q is [padded][heads][4 copies], keys are
 * [padded][positions]. A copied number is a plain load; load32_splat compiles to three instructions here.
 */
#define SCORE(h) { const v128_t x = wasm_v128_load(q_d + 4 * h); GAIN(h, x, k0, k1) }
#define STORE_SCORES(h)                                                       \
  wasm_v128_store(scores + h * stride + t, wasm_f32x4_mul(low##h, scales));     \
  wasm_v128_store(scores + h * stride + t + 4, wasm_f32x4_mul(high##h, scales));
#define SCORE_KERNEL(heads)                                                                                        \
  static __attribute__((noinline)) void score_page_##heads(const float* keys, const float* q, uint32_t padded, float scale, \
                                                           float* scores, uint32_t stride) {                       \
    const v128_t scales = wasm_f32x4_splat(scale);                                                                 \
    for (uint32_t t = 0; t < PAGE_TOKENS; t += 8) {                                                                \
      REPEAT_##heads(ZERO)                                                                                         \
      const float* k = keys + t;                                                                                   \
      for (const float *q_d = q, *end = q + padded * heads * 4; q_d != end; q_d += heads * 4, k += PAGE_TOKENS) {          \
        const v128_t k0 = wasm_v128_load(k), k1 = wasm_v128_load(k + 4);                                           \
        REPEAT_##heads(SCORE)                                                                                      \
      }                                                                                                            \
      REPEAT_##heads(STORE_SCORES)                                                                                 \
    }                                                                                                              \
  }
SCORE_KERNEL(1)
SCORE_KERNEL(2)
SCORE_KERNEL(3)

/* Adds values of positions [begin, end) of one page: weights of head h at weights + h * stride, sums at sums + h * padded. */
#define WEIGHTS(h) const float* w##h = weights + h * stride;
#define LOAD_SUMS(h) v128_t low##h = wasm_v128_load(sums + h * padded + d), high##h = wasm_v128_load(sums + h * padded + d + 4);
#define WEIGH(h) { const v128_t x = wasm_v128_load32_splat(w##h + t); GAIN(h, x, v0, v1) }
#define STORE_SUMS(h) wasm_v128_store(sums + h * padded + d, low##h), wasm_v128_store(sums + h * padded + d + 4, high##h);
#define WEIGH_KERNEL(heads)                                                                                        \
  static __attribute__((noinline)) void weigh_page_##heads(const float* values, uint32_t padded, const float* weights, uint32_t stride, \
                                                           uint32_t begin, uint32_t end, float* sums) {            \
    REPEAT_##heads(WEIGHTS)                                                                                        \
    for (uint32_t d = 0; d < padded; d += 8) {                                                                     \
      REPEAT_##heads(LOAD_SUMS)                                                                                    \
      const float* v = values + begin * padded + d;                                                                \
      for (uint32_t t = begin; t < end; t++, v += padded) {                                                        \
        const v128_t v0 = wasm_v128_load(v), v1 = wasm_v128_load(v + 4);                                           \
        REPEAT_##heads(WEIGH)                                                                                      \
      }                                                                                                            \
      REPEAT_##heads(STORE_SUMS)                                                                                   \
    }                                                                                                              \
  }
WEIGH_KERNEL(1)
WEIGH_KERNEL(2)
WEIGH_KERNEL(3)

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

static const float* keys_of(const span_t* span, uint32_t page) {
  return kv_head(span->control, span->op, (uint32_t)span->pages[page], span->kv);
}

/*
 * Brings floats [begin, begin + count) of the next pages into the cache in one go. Pages lie far apart, so the hardware
 * prefetches little of them: decode of eight rows of 64 positions spent a tenth of its time on these reads.
 */
enum { FETCH_PAGES = 8 };
static void fetch(const span_t* span, uint32_t page, uint32_t begin, uint32_t count) {
  const uint32_t first_page = span->first / PAGE_TOKENS, last_page = span->last / PAGE_TOKENS;
  if (!span->is_cold || (page - first_page) % FETCH_PAGES != 0) return;
  v128_t seen = wasm_i32x4_const_splat(0);
  for (uint32_t next = page; next <= min_u32(page + FETCH_PAGES - 1, last_page); next++) {
    const float *at = keys_of(span, next) + begin, *end = at + count;
    for (; at < end; at += 16) seen = wasm_v128_or(seen, wasm_v128_load(at));
  }
  /* Without a use the reads would be removed. */
  __asm__ volatile("" : : "r"(wasm_i32x4_extract_lane(seen, 0)));
}

/* `heads` query heads of one row from q to out, side by side. `memory` holds q, sums and scores. */
static void attend(const span_t* span, uint32_t heads, const float* q, float* out, float* memory) {
  const uint32_t* control = span->control;
  const uint32_t head_dim = control[CONTROL_HEAD_DIM], padded = control[CONTROL_HEAD_DIM_PADDED];
  const uint32_t first_page = span->first / PAGE_TOKENS, last_page = span->last / PAGE_TOKENS;
  const uint32_t origin = first_page * PAGE_TOKENS, count = (last_page - first_page + 1) * PAGE_TOKENS;
  const uint32_t part = PAGE_TOKENS * padded; /* keys of a page, then as many values */
  float *copies = memory, *sums = copies + heads * padded * 4, *scores = sums + heads * padded;

  for (uint32_t i = 0; i < heads * padded; i++) sums[i] = 0.0f;
  for (uint32_t d = 0; d < padded; d++)
    for (uint32_t h = 0; h < heads; h++)
      wasm_v128_store(copies + (d * heads + h) * 4, wasm_f32x4_splat(d < head_dim ? q[h * head_dim + d] : 0.0f));

  const float scale = float_of(control[CONTROL_SCORE_SCALE]);
  for (uint32_t page = first_page; page <= last_page; page++) {
    fetch(span, page, 0, part);
    const float* keys = keys_of(span, page);
    float* at = scores + (page - first_page) * PAGE_TOKENS;
    if (heads == 3) score_page_3(keys, copies, padded, scale, at, count);
    else if (heads == 2) score_page_2(keys, copies, padded, scale, at, count);
    else score_page_1(keys, copies, padded, scale, at, count);
  }
  float norms[MAX_QUERY_HEADS];
  for (uint32_t h = 0; h < heads; h++) {
    /* Positions outside the span are overwritten, not multiplied away: stale memory may hold anything. */
    float* own = scores + h * count;
    for (uint32_t t = 0; t < span->first - origin; t++) own[t] = -__builtin_inff();
    for (uint32_t t = span->last - origin + 1; t < count; t++) own[t] = -__builtin_inff();
    norms[h] = softmax(own, count);
  }
  for (uint32_t page = first_page; page <= last_page; page++) {
    fetch(span, page, part, part);
    const float* values = keys_of(span, page) + part;
    const float* weights = scores + (page - first_page) * PAGE_TOKENS;
    const uint32_t begin = page == first_page ? span->first - origin : 0;
    const uint32_t end = page == last_page ? span->last - page * PAGE_TOKENS + 1 : PAGE_TOKENS;
    if (heads == 3) weigh_page_3(values, padded, weights, count, begin, end, sums);
    else if (heads == 2) weigh_page_2(values, padded, weights, count, begin, end, sums);
    else weigh_page_1(values, padded, weights, count, begin, end, sums);
  }
  for (uint32_t h = 0; h < heads; h++)
    for (uint32_t d = 0; d < head_dim; d++) out[h * head_dim + d] = sums[h * padded + d] * norms[h];
}

void run_attention(step_t* step, const uint32_t* op) {
  const uint32_t* control = step->control;
  const uint32_t num_kv_heads = control[CONTROL_NUM_KV_HEADS], head_dim = control[CONTROL_HEAD_DIM];
  const uint32_t group = control[CONTROL_NUM_HEADS] / num_kv_heads;
  /* A single row still has work for every thread. */
  const uint32_t share = step->num_rows * num_kv_heads * group / (2 * step->num_threads);
  const uint32_t heads = max_u32(1, min_u32(share, MAX_QUERY_HEADS)), parts = (group + heads - 1) / heads;
  const uint32_t window = op[OPERATION_N];
  const int32_t* positions = step->block + step->block[STEP_HEADER_POSITIONS_AT];
  const uint32_t total = step->num_rows * num_kv_heads * parts;

  for (uint32_t item = claim(step, 0, 1); item < total; item = claim(step, 0, 1)) {
    const uint32_t part = item % parts, kv = item / parts % num_kv_heads, row = item / parts / num_kv_heads;
    const uint32_t position = (uint32_t)positions[row];
    const span_t span = {
        .control = control,
        .op = op,
        .pages = page_table(step, sequence_of_row(step, row)),
        .kv = kv,
        .first = window != 0 && position + 1 > window ? position + 1 - window : 0,
        .last = position,
        .is_cold = row == 0 || sequence_of_row(step, row - 1) != sequence_of_row(step, row),
    };
    const uint32_t begin = kv * group + part * group / parts, end = kv * group + (part + 1) * group / parts;
    const float* q = (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
    float* out = (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
    attend(&span, end - begin, q + begin * head_dim, out + begin * head_dim, scratch(step));
  }
  barrier(step);
}
