/** Four-lane exponential shared by softmax, SiLU and sampling. */
#pragma once
#include <wasm_simd128.h>

/**
 * exp(x) for x <= 88, within 2 ulp; exactly 0 below -87, -Infinity included.
 * Range reduction by ln 2 in two parts, then a polynomial of degree 6 (Cephes expf).
 */
static inline v128_t exp_f32x4(v128_t x) {
  const v128_t magic = wasm_f32x4_const_splat(12582912.0f); /* 1.5 * 2^23 rounds to an integer by addition */
  v128_t low = wasm_f32x4_lt(x, wasm_f32x4_const_splat(-87.0f));
  v128_t clamped = wasm_v128_bitselect(wasm_f32x4_const_splat(-87.0f), x, low);
  v128_t t = wasm_f32x4_add(wasm_f32x4_mul(clamped, wasm_f32x4_const_splat(1.44269504088896341f)), magic);
  v128_t n = wasm_f32x4_sub(t, magic);
  v128_t r = wasm_f32x4_sub(clamped, wasm_f32x4_mul(n, wasm_f32x4_const_splat(0.693359375f)));
  r = wasm_f32x4_sub(r, wasm_f32x4_mul(n, wasm_f32x4_const_splat(-2.12194440e-4f)));
  v128_t p = wasm_f32x4_const_splat(1.9875691500e-4f);
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.3981999507e-3f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(8.3334519073e-3f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(4.1665795894e-2f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.6666665459e-1f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(5.0000001201e-1f));
  p = wasm_f32x4_add(wasm_f32x4_mul(wasm_f32x4_mul(p, r), r), wasm_f32x4_add(r, wasm_f32x4_const_splat(1.0f)));
  /* 2^n: the low bits of t hold n, and adding n << 23 to the exponent multiplies by it. */
  v128_t exponent = wasm_i32x4_mul(wasm_i32x4_sub(t, magic), wasm_i32x4_const_splat(1 << 23));
  v128_t result = wasm_i32x4_add(p, exponent);
  return wasm_v128_andnot(result, low);
}

static inline float exp_f32(float x) { return wasm_f32x4_extract_lane(exp_f32x4(wasm_f32x4_splat(x)), 0); }

static inline float horizontal_sum(v128_t v) {
  return (wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1)) +
         (wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3));
}

static inline float horizontal_max(v128_t v) {
  v128_t a = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  v128_t b = wasm_f32x4_pmax(a, wasm_i32x4_shuffle(a, a, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(b, 0);
}
