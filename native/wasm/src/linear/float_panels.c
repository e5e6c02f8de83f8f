/**
 * float32 and bfloat16 panels times float32 activations.
 *
 * Every output has one accumulator and gains its products in ascending k, multiply then add, on every path:
 * one row or many, unpacked on the fly or ahead, in one block of columns or several.
 */
#include "linear.h"
#include "panels.h"

/* Columns per block: an unpacked block and a tile of activations share the first-level cache. */
enum { BLOCK_COLUMNS = 320 };

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
#define LOAD_SUMS(r) v128_t s##r##0 = sums[2 * r], s##r##1 = sums[2 * r + 1];
#define STORE_SUMS(r) sums[2 * r] = s##r##0, sums[2 * r + 1] = s##r##1;
#define TILE_COLUMN(rows, width, i)                                                          \
  {                                                                                          \
    const v128_t w0 = wasm_v128_load(w + width * i), w1 = wasm_v128_load(w + width * i + 4); \
    REPEAT_##rows(TILE_ROW, i)                                                               \
    KEEP_ORDER(rows)                                                                         \
  }
#define UNPACK_COLUMN(rows, width, i)                                   \
  {                                                                     \
    const v128_t halves = wasm_v128_load(w + 2 * width * i);            \
    const v128_t w0 = bfloat16_low(halves), w1 = bfloat16_high(halves); \
    wasm_v128_store(unpacked + width * i, w0);                          \
    wasm_v128_store(unpacked + width * i + 4, w1);                      \
    REPEAT_##rows(TILE_ROW, i)                                          \
    KEEP_ORDER(rows)                                                    \
  }

/*
 * sums[row][half] gains w[k][8] * x[k][row] over `columns` columns; rows of w are `width` floats apart.
 * Activations come as whole vectors: loads are free beside the arithmetic, copies of lanes are not.
 */
#define TILE_KERNEL(rows, width)                                                                                      \
  static __attribute__((noinline)) void tile_##rows##_##width(const float* w, const float* x, uint32_t columns, v128_t* sums) { \
    REPEAT_##rows(LOAD_SUMS)                                                                                          \
    for (; columns >= 4; columns -= 4, w += 4 * width, x += 64) {                                                     \
      TILE_COLUMN(rows, width, 0) TILE_COLUMN(rows, width, 1) TILE_COLUMN(rows, width, 2) TILE_COLUMN(rows, width, 3) \
    }                                                                                                                 \
    for (; columns > 0; columns--, w += width, x += 16) TILE_COLUMN(rows, width, 0)                                   \
    REPEAT_##rows(STORE_SUMS)                                                                                         \
  }
/*
 * The same from a bfloat16 panel, which it leaves unpacked for the tiles that follow: with few rows, a pass of its
 * own for that takes as long as the arithmetic. The panel must be in the cache (see fetch): straight from memory
 * this was the slowest form.
 */
#define UNPACK_KERNEL(rows, width)                                                                                    \
  static __attribute__((noinline)) void unpack_tile_##rows##_##width(const uint8_t* w, float* unpacked, const float* x, \
                                             uint32_t columns, v128_t* sums) {                                        \
    REPEAT_##rows(LOAD_SUMS)                                                                                          \
    for (; columns >= 4; columns -= 4, w += 8 * width, unpacked += 4 * width, x += 64) {                              \
      UNPACK_COLUMN(rows, width, 0) UNPACK_COLUMN(rows, width, 1) UNPACK_COLUMN(rows, width, 2) UNPACK_COLUMN(rows, width, 3) \
    }                                                                                                                 \
    for (; columns > 0; columns--, w += 2 * width, unpacked += width, x += 16) UNPACK_COLUMN(rows, width, 0)          \
    REPEAT_##rows(STORE_SUMS)                                                                                         \
  }

TILE_KERNEL(1, 16)
TILE_KERNEL(2, 16)
TILE_KERNEL(3, 16)
TILE_KERNEL(4, 16)
TILE_KERNEL(1, 8)
TILE_KERNEL(4, 8)
UNPACK_KERNEL(2, 16)
UNPACK_KERNEL(3, 16)
UNPACK_KERNEL(4, 16)
UNPACK_KERNEL(4, 8)

/* Half panels are rare, and a tile that is not full repeats its first row. */
static void tile(uint32_t rows, const float* w, uint32_t width, const float* x, uint32_t columns, v128_t* sums) {
  if (width == HALF_ROWS) (rows == 1 ? tile_1_8 : tile_4_8)(w, x, columns, sums);
  else if (rows == 4) tile_4_16(w, x, columns, sums);
  else if (rows == 3) tile_3_16(w, x, columns, sums);
  else if (rows == 2) tile_2_16(w, x, columns, sums);
  else tile_1_16(w, x, columns, sums);
}
static void unpack_tile(uint32_t rows, const uint8_t* w, float* unpacked, uint32_t width, const float* x, uint32_t columns,
                        v128_t* sums) {
  if (width == HALF_ROWS) unpack_tile_4_8(w, unpacked, x, columns, sums);
  else if (rows == 4) unpack_tile_4_16(w, unpacked, x, columns, sums);
  else if (rows == 3) unpack_tile_3_16(w, unpacked, x, columns, sums);
  else unpack_tile_2_16(w, unpacked, x, columns, sums);
}

static void many_rows(const linear_t* op, uint32_t panel0, uint32_t panel1, float* scratch) {
  const uint32_t k = op->k, tiles = tiles_of(op->num_rows);
  const uint32_t stride = stored_bytes(op->format, PANEL_ROWS, k);
  const int is_bfloat16 = op->format == FORMAT_BFLOAT16;
  float* unpacked = scratch;
  v128_t* sums = (v128_t*)(scratch + BLOCK_COLUMNS * PANEL_ROWS);
  for (uint32_t panel = panel0; panel < panel1; panel++) {
    const uint8_t* weights = (const uint8_t*)op->matrix + (uintptr_t)panel * stride;
    const uint32_t n = panel * PANEL_ROWS, width = panel_width(n, op->n), halves = width / HALF_ROWS;
    fetch(op, panel, panel0, panel1);
    for (uint32_t i = 0; i < tiles * halves * 8; i++) sums[i] = wasm_f32x4_const_splat(0.0f);
    for (uint32_t column = 0; column < k; column += BLOCK_COLUMNS) {
      const uint32_t columns = k - column < BLOCK_COLUMNS ? k - column : BLOCK_COLUMNS;
      const float* block = is_bfloat16 ? unpacked : (const float*)weights + column * width;
      for (uint32_t i = 0; i < tiles; i++) {
        const float* x = (const float*)op->packed + ((uintptr_t)i * k + column) * 16;
        const uint32_t left = op->num_rows - i * ACTIVATION_TILE, rows = left < ACTIVATION_TILE ? left : ACTIVATION_TILE;
        for (uint32_t half = 0; half < halves; half++) {
          v128_t* to = sums + (i * halves + half) * 8;
          const uint32_t at = half * HALF_ROWS;
          if (i == 0 && is_bfloat16)
            unpack_tile(rows, weights + (column * width + at) * 2, unpacked + at, width, x, columns, to);
          else tile(rows, block + at, width, x, columns, to);
        }
      }
    }
    for (uint32_t row = 0; row < op->num_rows; row++) {
      for (uint32_t half = 0; half < halves && n + half * HALF_ROWS < op->n; half++) {
        const v128_t* from = sums + ((row / ACTIVATION_TILE) * halves + half) * 8 + row % ACTIVATION_TILE * 2;
        store_outputs(op, row, n + half * HALF_ROWS, from[0], from[1]);
      }
    }
  }
}

EXPORT(linear_scratch_bytes) uint32_t linear_scratch_bytes(uint32_t max_rows, uint32_t max_k) {
  (void)max_k;
  return BLOCK_COLUMNS * PANEL_ROWS * 4 + tiles_of(max_rows) * ACTIVATION_TILE * PANEL_ROWS * 4;
}

void float_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, float* scratch) {
  if (op->num_rows == 1) one_row(op, panel0, panel1);
  else many_rows(op, panel0, panel1, scratch);
}

EXPORT(linear_panels) void linear_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch) {
  if (op->format == FORMAT_INT8) int8_panels(op, panel0, panel1);
  else float_panels(op, panel0, panel1, scratch);
}
