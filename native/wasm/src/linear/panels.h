/**
 * How numbers lie inside a panel of 16 rows; `w` below is 16, or 8 for a last panel of at most 8 rows.
 *
 *   float32   f32[k][w]
 *   bfloat16  u16[k][w]; within each 8 rows in the order r0 r4 r1 r5 r2 r6 r3 r7: the even halves of a vector
 *             are rows 0 to 3 and the odd halves rows 4 to 7, so unpacking is one swizzle and one mask
 *   int8      per 32 columns: 8 quads of 4 columns x w rows, then f32[w] scales. The four bytes of a row in a
 *             quad are k0+128, k1, k2+128, k3: as 16-bit lanes, (low byte) + 256 * (high byte)
 *
 * A panel is one ascending stream: two streams of 8 rows each measured a third of its speed from memory.
 */
#pragma once
#include <stdint.h>
#include <wasm_simd128.h>

#include "linear.h"
#include "repeat.h"

#define EXPORT(name) __attribute__((export_name(#name)))
#define DUP(v, lane) wasm_i32x4_shuffle(v, v, lane, lane, lane, lane)

enum { HALF_ROWS = 8 };

/** Rows that the panel starting at row n is stored with. */
static inline uint32_t panel_width(uint32_t n, uint32_t num_rows) { return num_rows - n > HALF_ROWS ? PANEL_ROWS : HALF_ROWS; }
static inline uint32_t int8_group_bytes(uint32_t width) { return INT8_GROUP * width + 4 * width; }
/** Bytes of one panel of `width` rows. */
uint32_t stored_bytes(uint32_t format, uint32_t width, uint32_t k);

static inline float float_from_bits(uint32_t bits) {
  union { uint32_t bits; float value; } pun = {.bits = bits};
  return pun.value;
}
static inline uint32_t bits_from_float(float value) {
  union { uint32_t bits; float value; } pun = {.value = value};
  return pun.bits;
}

static inline uint32_t int8_groups(uint32_t k) { return (k + INT8_GROUP - 1) / INT8_GROUP; }
static inline uint32_t bfloat16_lane(uint32_t row) { return (row & 8) + (row % 8 < 4 ? row % 8 * 2 : row % 8 * 2 - 7); }
static inline uint32_t int8_offset(uint32_t width, uint32_t row, uint32_t column) {
  return column / 4 * (4 * width) + row * 4 + column % 4;
}

/** Symmetric quantisation of values up to `largest`: value = q * step, |q| <= 127. */
typedef struct { float step, inverse; } int8_scale_t;
static inline int8_scale_t int8_scale(float largest) {
  /* Below this the inverse would overflow; such a group is zero for every practical purpose. */
  if (largest < 1.0e-35f) return (int8_scale_t){0.0f, 0.0f};
  return (int8_scale_t){largest / 127.0f, 127.0f / largest};
}

/**
 * What follows stays behind what came before: sums s00 to s<rows - 1>1 pass through here.
 * The compiler would otherwise mix unrolled rounds and run out of registers.
 */
#define KEEP_ORDER(rows) __asm__ volatile("" : SUMS_##rows : : "memory");
#define SUMS_1 "+r"(s00), "+r"(s01)
#define SUMS_2 SUMS_1, "+r"(s10), "+r"(s11)
#define SUMS_3 SUMS_2, "+r"(s20), "+r"(s21)
#define SUMS_4 SUMS_3, "+r"(s30), "+r"(s31)

/** Eight outputs of one column as floats: `low` is rows 0 to 3, `high` rows 4 to 7. */
static inline v128_t bfloat16_low(v128_t halves) {
  return wasm_i8x16_swizzle(halves, wasm_i8x16_const(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13));
}
static inline v128_t bfloat16_high(v128_t halves) {
  return wasm_v128_and(halves, wasm_i32x4_const_splat((int32_t)0xffff0000));
}

/** Writes eight outputs of one row, those below n of the matrix: y = [y +] scale * (sum + bias). */
static inline void store_outputs(const linear_t* op, uint32_t row, uint32_t n, v128_t low, v128_t high) {
  float* y = op->y + (uintptr_t)row * op->ldy + n;
  const v128_t scale = wasm_f32x4_splat(op->scale);
  if (n + HALF_ROWS <= op->n) {
    if (op->bias) {
      low = wasm_f32x4_add(low, wasm_v128_load(op->bias + n));
      high = wasm_f32x4_add(high, wasm_v128_load(op->bias + n + 4));
    }
    if (op->mode == LINEAR_ADD) {
      low = wasm_f32x4_add(wasm_v128_load(y), wasm_f32x4_mul(scale, low));
      high = wasm_f32x4_add(wasm_v128_load(y + 4), wasm_f32x4_mul(scale, high));
    }
    wasm_v128_store(y, low);
    wasm_v128_store(y + 4, high);
    return;
  }
  float sums[HALF_ROWS];
  wasm_v128_store(sums, low);
  wasm_v128_store(sums + 4, high);
  for (uint32_t i = 0; n + i < op->n; i++) {
    const float value = op->bias ? sums[i] + op->bias[n + i] : sums[i];
    y[i] = op->mode == LINEAR_ADD ? y[i] + op->scale * value : value;
  }
}

void float_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch);
void int8_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch);

/* Packed activations: see activations.c. */
enum { INT8_ROW_BYTES = 72, INT8_TILE_BYTES = 1152 };
static inline uint32_t tiles_of(uint32_t num_rows) { return (num_rows + ACTIVATION_TILE - 1) / ACTIVATION_TILE; }
