/**
 * float32 and bfloat16 panels times float32 activations.
 *
 * Every output has one accumulator and gains its products in ascending k, multiply then add, on every path:
 * one row or many, unpacked on the fly or ahead, in one block of columns or several.
 */
#include "blocks.h"
#include "linear.h"
#include "panels.h"

/* In 128 columns two tiles of activations have 16 kB and an unpacked panel 8; in 320, one tile and a panel have 20 each. */
enum { MOST_COLUMNS = 320 };
static const block_columns_t COLUMNS = {.one_tile = 256, .few_rows = 128, .many_rows = MOST_COLUMNS};

static inline v128_t multiply_add(v128_t sum, v128_t a, v128_t b) { return wasm_f32x4_add(sum, wasm_f32x4_mul(a, b)); }

/* ---- one row ---- */

#define BFLOAT16_8(at, s0, s1)                       \
  {                                                  \
    const v128_t halves = wasm_v128_load(w + (at));  \
    s0 = multiply_add(s0, x, bfloat16_low(halves));  \
    s1 = multiply_add(s1, x, bfloat16_high(halves)); \
  }
#define FLOAT32_8(at, s0, s1)                                \
  {                                                          \
    s0 = multiply_add(s0, x, wasm_v128_load(w + (at)));      \
    s1 = multiply_add(s1, x, wasm_v128_load(w + (at) + 16)); \
  }

/* Defines a kernel for one row and 16 outputs, or 8: four or two chains of additions side by side. */
#define ROW_KERNEL_16(name, COLUMN_8, bytes_8)                                                           \
  static inline void name(const uint8_t* w, const float* xs, uint32_t k, v128_t* out) {                  \
    v128_t s0 = wasm_f32x4_const_splat(0.0f), s1 = s0, s2 = s0, s3 = s0;                                 \
    for (const float* end = xs + (k & ~3u); xs != end; xs += 4, w += 8 * (bytes_8)) {                    \
      const v128_t four = wasm_v128_load(xs);                                                            \
      { const v128_t x = DUP(four, 0); COLUMN_8(0, s0, s1) COLUMN_8((bytes_8), s2, s3) }                 \
      { const v128_t x = DUP(four, 1); COLUMN_8(2 * (bytes_8), s0, s1) COLUMN_8(3 * (bytes_8), s2, s3) } \
      { const v128_t x = DUP(four, 2); COLUMN_8(4 * (bytes_8), s0, s1) COLUMN_8(5 * (bytes_8), s2, s3) } \
      { const v128_t x = DUP(four, 3); COLUMN_8(6 * (bytes_8), s0, s1) COLUMN_8(7 * (bytes_8), s2, s3) } \
    }                                                                                                    \
    for (uint32_t rest = k & 3u; rest > 0; rest--, xs++, w += 2 * (bytes_8)) {                           \
      const v128_t x = wasm_f32x4_splat(*xs);                                                            \
      COLUMN_8(0, s0, s1) COLUMN_8((bytes_8), s2, s3)                                                    \
    }                                                                                                    \
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;                                                  \
  }
#define ROW_KERNEL_8(name, COLUMN_8, bytes_8)                                           \
  static inline void name(const uint8_t* w, const float* xs, uint32_t k, v128_t* out) { \
    v128_t s0 = wasm_f32x4_const_splat(0.0f), s1 = s0;                                  \
    for (const float* end = xs + k; xs != end; xs++, w += (bytes_8)) {                  \
      const v128_t x = wasm_v128_load32_splat(xs);                                      \
      COLUMN_8(0, s0, s1)                                                               \
    }                                                                                   \
    out[0] = s0, out[1] = s1;                                                           \
  }

ROW_KERNEL_16(bfloat16_row_16, BFLOAT16_8, 16)
ROW_KERNEL_8(bfloat16_row_8, BFLOAT16_8, 16)
ROW_KERNEL_16(float32_row_16, FLOAT32_8, 32)
ROW_KERNEL_8(float32_row_8, FLOAT32_8, 32)

static void one_row(const linear_t* op, uint32_t panel0, uint32_t panel1) {
  const uint32_t stride = stored_bytes(op->format, PANEL_ROWS, op->k);
  const int is_bfloat16 = op->format == FORMAT_BFLOAT16;
  for (uint32_t panel = panel0; panel < panel1; panel++) {
    const uint8_t* w = (const uint8_t*)op->matrix + (uintptr_t)panel * stride;
    const uint32_t n = panel * PANEL_ROWS;
    v128_t sums[4];
    if (panel_width(n, op->n) == PANEL_ROWS) {
      if (is_bfloat16) bfloat16_row_16(w, op->packed, op->k, sums);
      else float32_row_16(w, op->packed, op->k, sums);
      store_outputs(op, 0, n, sums[0], sums[1]);
      store_outputs(op, 0, n + HALF_ROWS, sums[2], sums[3]);
    } else {
      if (is_bfloat16) bfloat16_row_8(w, op->packed, op->k, sums);
      else float32_row_8(w, op->packed, op->k, sums);
      store_outputs(op, 0, n, sums[0], sums[1]);
    }
  }
}

/* ---- more rows: tiles of up to four rows by eight outputs ---- */

#define TILE_ROW(r, i)                                       \
  {                                                          \
    const v128_t x_row = wasm_v128_load(x + 16 * i + 4 * r); \
    s##r##0 = multiply_add(s##r##0, x_row, w0);              \
    s##r##1 = multiply_add(s##r##1, x_row, w1);              \
  }
#define LOAD_SUMS(r) v128_t s##r##0 = sums[4 * r], s##r##1 = sums[4 * r + 1];
#define STORE_SUMS(r) sums[4 * r] = s##r##0, sums[4 * r + 1] = s##r##1;
/*
 * Where two times four weights come from, `i` columns ahead: a panel of floats, one of bfloat16, or one of bfloat16 that is left
 * unpacked for the tile that follows. A pass of its own for that takes as long as the arithmetic. The panel must be in the
 * cache then (see fetch): straight from memory this was the slowest form.
 */
#define FLOAT32_PANEL const uint8_t* w
#define FLOAT32_NEXT(count) w += 4 * (count)
#define FLOAT32_WEIGHTS(width, i) \
  const v128_t w0 = wasm_v128_load(w + 4 * width * i), w1 = wasm_v128_load(w + 4 * width * i + 16);
#define BFLOAT16_PANEL const uint8_t* w
#define BFLOAT16_NEXT(count) w += 2 * (count)
#define BFLOAT16_WEIGHTS(width, i)                           \
  const v128_t halves = wasm_v128_load(w + 2 * width * i);   \
  const v128_t w0 = bfloat16_low(halves), w1 = bfloat16_high(halves);
#define UNPACK_PANEL const uint8_t *w, float *unpacked
#define UNPACK_NEXT(count) w += 2 * (count), unpacked += (count)
#define UNPACK_WEIGHTS(width, i)              \
  BFLOAT16_WEIGHTS(width, i)                  \
  wasm_v128_store(unpacked + width * i, w0);  \
  wasm_v128_store(unpacked + width * i + 4, w1);

#define TILE_COLUMN(PANEL, rows, width, i) \
  {                                        \
    PANEL##_WEIGHTS(width, i)              \
    REPEAT_##rows(TILE_ROW, i)             \
    KEEP_ORDER(rows)                       \
  }
/*
 * sums[4 * row + half] gains w[k][8] * x[k][row] over `columns` columns; rows of w are `width` numbers apart.
 * Activations come as whole vectors: loads are free beside the arithmetic, copies of lanes are not.
 */
#define TILE_KERNEL(name, PANEL, rows, width)                                                                         \
  static __attribute__((noinline)) void name(PANEL##_PANEL, const float* x, uint32_t columns, v128_t* sums) {         \
    REPEAT_##rows(LOAD_SUMS)                                                                                          \
    for (; columns >= 4; columns -= 4, PANEL##_NEXT(4 * width), x += 64) {                                            \
      TILE_COLUMN(PANEL, rows, width, 0) TILE_COLUMN(PANEL, rows, width, 1)                                           \
      TILE_COLUMN(PANEL, rows, width, 2) TILE_COLUMN(PANEL, rows, width, 3)                                           \
    }                                                                                                                 \
    for (; columns > 0; columns--, PANEL##_NEXT(width), x += 16) TILE_COLUMN(PANEL, rows, width, 0)                   \
    REPEAT_##rows(STORE_SUMS)                                                                                         \
  }
/* Two rows and 16 outputs: tiles of eight have too few chains of additions to keep the adders busy. */
#define WIDE_ROW(r, i)                                       \
  {                                                          \
    const v128_t x_row = wasm_v128_load(x + 16 * i + 4 * r); \
    s##r##0 = multiply_add(s##r##0, x_row, w0);              \
    s##r##1 = multiply_add(s##r##1, x_row, w1);              \
    s##r##2 = multiply_add(s##r##2, x_row, w2);              \
    s##r##3 = multiply_add(s##r##3, x_row, w3);              \
  }
#define WIDE_COLUMN(i)                                                                                             \
  {                                                                                                                \
    const v128_t halves0 = wasm_v128_load(w + 32 * i), halves1 = wasm_v128_load(w + 32 * i + 16);                  \
    const v128_t w0 = bfloat16_low(halves0), w1 = bfloat16_high(halves0);                                          \
    const v128_t w2 = bfloat16_low(halves1), w3 = bfloat16_high(halves1);                                          \
    REPEAT_2(WIDE_ROW, i)                                                                                          \
    __asm__ volatile("" : "+r"(s02), "+r"(s03), "+r"(s12), "+r"(s13), SUMS_2 : : "memory");                        \
  }
static __attribute__((noinline)) void bfloat16_wide_2(const uint8_t* w, const float* x, uint32_t columns, v128_t* sums) {
  v128_t s00 = sums[0], s01 = sums[1], s02 = sums[2], s03 = sums[3], s10 = sums[4], s11 = sums[5], s12 = sums[6], s13 = sums[7];
  for (; columns >= 4; columns -= 4, w += 128, x += 64) { WIDE_COLUMN(0) WIDE_COLUMN(1) WIDE_COLUMN(2) WIDE_COLUMN(3) }
  for (; columns > 0; columns--, w += 32, x += 16) WIDE_COLUMN(0)
  sums[0] = s00, sums[1] = s01, sums[2] = s02, sums[3] = s03, sums[4] = s10, sums[5] = s11, sums[6] = s12, sums[7] = s13;
}

TILE_KERNEL(tile_1_16, FLOAT32, 1, 16)
TILE_KERNEL(tile_2_16, FLOAT32, 2, 16)
TILE_KERNEL(tile_3_16, FLOAT32, 3, 16)
TILE_KERNEL(tile_4_16, FLOAT32, 4, 16)
TILE_KERNEL(tile_1_8, FLOAT32, 1, 8)
TILE_KERNEL(tile_4_8, FLOAT32, 4, 8)
TILE_KERNEL(bfloat16_tile_1_16, BFLOAT16, 1, 16)
TILE_KERNEL(bfloat16_tile_3_16, BFLOAT16, 3, 16)
TILE_KERNEL(bfloat16_tile_4_16, BFLOAT16, 4, 16)
TILE_KERNEL(bfloat16_tile_4_8, BFLOAT16, 4, 8)
TILE_KERNEL(unpack_tile_16, UNPACK, 4, 16)
TILE_KERNEL(unpack_tile_8, UNPACK, 4, 8)

/* Half panels are rare, and a tile that is not full repeats its first row. */
static void tile(uint32_t rows, const uint8_t* w, uint32_t width, const float* x, uint32_t columns, v128_t* sums) {
  if (width == HALF_ROWS) (rows == 1 ? tile_1_8 : tile_4_8)(w, x, columns, sums);
  else if (rows == 4) tile_4_16(w, x, columns, sums);
  else if (rows == 3) tile_3_16(w, x, columns, sums);
  else if (rows == 2) tile_2_16(w, x, columns, sums);
  else tile_1_16(w, x, columns, sums);
}
static void bfloat16_tile(uint32_t rows, const uint8_t* w, uint32_t width, const float* x, uint32_t columns, v128_t* sums) {
  if (width == HALF_ROWS) bfloat16_tile_4_8(w, x, columns, sums);
  else if (rows == 4) bfloat16_tile_4_16(w, x, columns, sums);
  else if (rows == 3) bfloat16_tile_3_16(w, x, columns, sums);
  else bfloat16_tile_1_16(w, x, columns, sums);
}

static inline __attribute__((always_inline)) void add_part(const linear_t* op, const part_t* part, void* scratch) {
  const int is_bfloat16 = op->format == FORMAT_BFLOAT16;
  const uint32_t width = part->width, columns = part->columns;
  float* unpacked = scratch;
  if (is_bfloat16 && part->rows == 2 && width == PANEL_ROWS) {
    bfloat16_wide_2(part->w, (const float*)part->x, columns, part->sums);
    return;
  }
  for (uint32_t at = 0; at < width; at += HALF_ROWS) {
    const float* x = (const float*)part->x;
    v128_t* sums = part->sums + at / 4;
    const uint8_t* w = part->w + at * (is_bfloat16 ? 2 : 4);
    const uint32_t first = at_most(ACTIVATION_TILE, part->rows);
    if (!is_bfloat16) tile(first, w, width, x, columns, sums);
    else if (part->rows <= ACTIVATION_TILE) bfloat16_tile(first, w, width, x, columns, sums);
    else if (width == PANEL_ROWS) unpack_tile_16(w, unpacked + at, x, columns, sums);
    else unpack_tile_8(w, unpacked + at, x, columns, sums);
    for (uint32_t row = ACTIVATION_TILE; row < part->rows; row += ACTIVATION_TILE) {
      x += part->tile_bytes / 4;
      tile(at_most(ACTIVATION_TILE, part->rows - row), is_bfloat16 ? (const uint8_t*)(unpacked + at) : w, width, x, columns, sums + 4 * row);
    }
  }
}

EXPORT(linear_scratch_bytes) uint32_t linear_scratch_bytes(void) { return SUMS_BYTES + MOST_COLUMNS * PANEL_ROWS * 4; }

void float_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch) {
  if (op->num_rows == 1) one_row(op, panel0, panel1);
  else many_rows(op, panel0, panel1, COLUMNS, add_part, scratch, (uint8_t*)scratch + SUMS_BYTES);
}

EXPORT(linear_panels) void linear_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch) {
  (op->format == FORMAT_INT8 ? int8_panels : float_panels)(op, panel0, panel1, scratch);
}
