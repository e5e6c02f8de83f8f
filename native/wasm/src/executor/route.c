/** The router's choice for each row, and the rows of each expert. */
#include <wasm_simd128.h>

#include "executor.h"
#include "product.h"
#include "vector_math.h"

/*
 * out = numbers of the top_k experts, then their shares. A row of NaN still gets experts, and NaN for shares.
 * `exponentials` holds experts rounded up to 4 floats, `taken` the experts so far. With one row every thread comes
 * here, so nothing is kept in `out` on the way.
 */
static void choose(const float* logits, uint32_t experts, uint32_t top_k, int normalize, float* out, float* exponentials,
                   uint32_t* taken) {
  float largest = logits[0], poison = 0.0f; /* NaN where a logit is not finite, which the exponential may hide */
  for (uint32_t e = 0; e < experts; e++) {
    largest = logits[e] > largest ? logits[e] : largest;
    poison += logits[e] * 0.0f;
  }
  for (uint32_t e = 0; e < ((experts + 3) & ~3u); e++) exponentials[e] = e < experts ? logits[e] - largest : -__builtin_inff();
  v128_t sums = wasm_f32x4_const_splat(0.0f);
  for (uint32_t e = 0; e < experts; e += 4) {
    const v128_t four = exp_f32x4(wasm_v128_load(exponentials + e));
    wasm_v128_store(exponentials + e, four);
    sums = wasm_f32x4_add(sums, four);
  }
  const float sum = horizontal_sum(sums) + poison;
  float chosen = 0.0f;
  for (uint32_t j = 0; j < top_k; j++) {
    uint32_t best = experts;
    for (uint32_t e = 0; e < experts; e++) {
      int is_taken = 0;
      for (uint32_t i = 0; i < j; i++) is_taken |= taken[i] == e;
      if (!is_taken && (best == experts || logits[e] > logits[best])) best = e;
    }
    taken[j] = best;
    chosen += exponentials[best];
  }
  for (uint32_t j = 0; j < top_k; j++) {
    out[j] = (float)taken[j];
    out[top_k + j] = exponentials[taken[j]] / (normalize ? chosen + poison : sum);
  }
}

/* A counting sort that writes every word once, with its last value: with one row every thread does it. */
static void group_rows(step_t* step, const uint32_t* op) {
  const uint32_t experts = op[OPERATION_N], top_k = op[OPERATION_K];
  const routed_t routed = routed_rows(step);
  uint32_t* next = scratch(step);
  for (uint32_t e = 0; e < experts; e++) next[e] = 0;
  for (uint32_t row = 0; row < step->num_rows; row++)
    for (uint32_t j = 0; j < top_k; j++) next[(uint32_t)output_row(op, row)[j]]++;
  uint32_t start = 0;
  for (uint32_t e = 0; e < experts; e++) {
    const uint32_t count = next[e];
    routed.starts[e] = next[e] = start;
    start += count;
  }
  routed.starts[experts] = start;
  for (uint32_t row = 0; row < step->num_rows; row++) {
    for (uint32_t j = 0; j < top_k; j++) {
      const uint32_t place = next[(uint32_t)output_row(op, row)[j]]++;
      routed.sources[place] = row;
      routed.places[row * top_k + j] = place;
    }
  }
}

/* `n` is the number of experts, `k` how many of them a row is given. */
void run_route(step_t* step, const uint32_t* op) {
  const int shared = row_is_shared(step, step->num_rows);
  float* exponentials = scratch(step);
  uint32_t* taken = (uint32_t*)exponentials + ((op[OPERATION_N] + 3) & ~3u);
  for (uint32_t row = shared ? claim(step, 0, 1) : 0; row < step->num_rows; row = shared ? claim(step, 0, 1) : row + 1)
    choose(input_row(op, row), op[OPERATION_N], op[OPERATION_K], (int)op[OPERATION_NORMALIZE], output_row(op, row), exponentials, taken);
  if (shared) barrier(step);
  if (!shared || step->thread == 0) group_rows(step, op);
  if (shared) barrier(step);
}
