/** Operations that touch each row on its own: norms, activation, gather. */
#include <wasm_simd128.h>

#include "executor.h"
#include "site.h"
#include "vector_math.h"

/* out = x / sqrt(mean(x^2) + eps) * weight; x and out may be the same. */
static void normalise(const float* x, const float* weight, float eps, uint32_t width, float* out) {
  v128_t sum0 = wasm_f32x4_const_splat(0.0f), sum1 = sum0;
  uint32_t i = 0;
  for (; i + 8 <= width; i += 8) {
    v128_t a = wasm_v128_load(x + i), b = wasm_v128_load(x + i + 4);
    sum0 = wasm_f32x4_add(sum0, wasm_f32x4_mul(a, a));
    sum1 = wasm_f32x4_add(sum1, wasm_f32x4_mul(b, b));
  }
  float squares = horizontal_sum(wasm_f32x4_add(sum0, sum1));
  for (uint32_t j = i; j < width; j++) squares += x[j] * x[j];
  const float factor = 1.0f / __builtin_sqrtf(squares / (float)width + eps);
  const v128_t factors = wasm_f32x4_splat(factor);
  uint32_t j = 0;
  for (; j + 4 <= width; j += 4)
    wasm_v128_store(out + j, wasm_f32x4_mul(wasm_f32x4_mul(wasm_v128_load(x + j), factors), wasm_v128_load(weight + j)));
  for (; j < width; j++) out[j] = x[j] * factor * weight[j];
}

/* The weight of a row's norm: its adapter's own, or else the base's. */
static const float* norm_weight(const step_t* step, const uint32_t* op, uint32_t row) {
  const uint32_t* site = site_of_row(step, op, row);
  return address(site ? site[SITE_OWN] : op[OPERATION_WEIGHT]);
}

void run_rms_norm(step_t* step, const uint32_t* op) {
  const uint32_t num_rows = rows_of(step, op);
  const int shared = row_is_shared(step, num_rows);
  for (uint32_t row = shared ? claim(step, 0, 1) : 0; row < num_rows; row = shared ? claim(step, 0, 1) : row + 1) {
    normalise((float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE], norm_weight(step, op, row),
              float_of(op[OPERATION_EPS]), op[OPERATION_N],
              (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE]);
  }
  if (shared) barrier(step);
}

/* In place, so each head is one thread's. `n` is the number of heads, `k` their width. */
void run_head_norm(step_t* step, const uint32_t* op) {
  const uint32_t heads = op[OPERATION_N], width = op[OPERATION_K];
  const uint32_t total = step->num_rows * heads;
  for (uint32_t item = claim(step, 0, 1); item < total; item = claim(step, 0, 1)) {
    float* x = (float*)address(op[OPERATION_X]) + (uintptr_t)(item / heads) * op[OPERATION_X_STRIDE] +
               op[OPERATION_OFFSET] + (item % heads) * width;
    normalise(x, norm_weight(step, op, item / heads), float_of(op[OPERATION_EPS]), width, x);
  }
  barrier(step);
}

void run_silu_mul(step_t* step, const uint32_t* op) {
  const uint32_t width = op[OPERATION_N], num_rows = rows_of(step, op);
  const uint32_t chunk = 512;
  const uint32_t chunks = (width + chunk - 1) / chunk;
  const v128_t one = wasm_f32x4_const_splat(1.0f);
  for (uint32_t item = claim(step, 0, 1); item < chunks * num_rows; item = claim(step, 0, 1)) {
    const uint32_t row = item / chunks, begin = item % chunks * chunk, end = min_u32(begin + chunk, width);
    const float* gate = (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
    const float* up = gate + width;
    float* out = (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
    uint32_t i = begin;
    for (; i + 4 <= end; i += 4) {
      v128_t g = wasm_v128_load(gate + i);
      v128_t sigmoid = wasm_f32x4_div(one, wasm_f32x4_add(one, exp_f32x4(wasm_f32x4_pmin(wasm_f32x4_neg(g), wasm_f32x4_const_splat(88.0f)))));
      wasm_v128_store(out + i, wasm_f32x4_mul(wasm_f32x4_mul(g, sigmoid), wasm_v128_load(up + i)));
    }
    for (; i < end; i++) {
      const float negated = -gate[i] < 88.0f ? -gate[i] : 88.0f;
      out[i] = gate[i] * (1.0f / (1.0f + exp_f32(negated))) * up[i];
    }
  }
  barrier(step);
}

void run_gather(step_t* step, const uint32_t* op) {
  const int32_t* samples = step->block + step->block[STEP_HEADER_SAMPLES_AT];
  const int shared = row_is_shared(step, step->num_sampled);
  for (uint32_t i = shared ? claim(step, 0, 1) : 0; i < step->num_sampled; i = shared ? claim(step, 0, 1) : i + 1) {
    const uint32_t row = (uint32_t)samples[i * SAMPLE_WORDS + SAMPLE_ROW];
    __builtin_memcpy((float*)address(op[OPERATION_OUT]) + (uintptr_t)i * op[OPERATION_OUT_STRIDE],
                     (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE],
                     op[OPERATION_N] * sizeof(float));
  }
  if (shared) barrier(step);
}
