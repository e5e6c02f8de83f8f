/**
 * int8 panels times int8 activations, 32 columns at a time.
 *
 * Sums over a group are exact integers; groups are added in float32 in ascending order, on every path.
 */
#include "blocks.h"
#include "linear.h"
#include "panels.h"

#define LOW_BYTES wasm_i16x8_const_splat(255)

/* sum += four outputs of one vector of weights: four columns, one row of activations. */
#define DOT(sum, w, low, odd, difference)                  \
  sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(w, odd)); \
  sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(low, difference));

/* total += (256 * sum) * (weight scale * activation scale / 256) */
static inline v128_t add_scaled(v128_t total, v128_t sum, v128_t scales, v128_t activation_scale) {
  return wasm_f32x4_add(total, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum), wasm_f32x4_mul(scales, activation_scale)));
}
static inline v128_t add_group(v128_t total, v128_t sum, int32_t offset, const float* scales, float activation_scale) {
  return add_scaled(total, wasm_i32x4_add(sum, wasm_i32x4_splat(offset)), wasm_v128_load(scales), wasm_f32x4_splat(activation_scale));
}

/* ---- one row, 16 outputs ---- */

#define ROW_VECTOR(sum, at)                                   \
  {                                                           \
    const v128_t v = wasm_v128_load(w + (at));                \
    DOT(sum, v, wasm_v128_and(v, LOW_BYTES), odd, difference) \
  }
#define ROW_QUAD(i)                                                                                                \
  {                                                                                                                \
    const v128_t odd = wasm_v128_load32_splat(x + 4 * i), difference = wasm_v128_load32_splat(x + 32 + 4 * i);     \
    seen |= *(const int32_t*)(ahead + i * int8_group_bytes(PANEL_ROWS) / 8);                                       \
    ROW_VECTOR(s00, 64 * i) ROW_VECTOR(s01, 64 * i + 16) ROW_VECTOR(s10, 64 * i + 32) ROW_VECTOR(s11, 64 * i + 48) \
    KEEP_ORDER(2)                                                                                                  \
  }
/*
 * The scales between the groups leave no load of the weights a constant stride, and from memory the hardware then
 * prefetches at half its speed or less after every jump. So each step also touches what comes half a group later, in
 * strides of an eighth of a group: 1.9 times the speed from memory where threads share small matrices. (Scales kept
 * apart from the groups, as a second stream, took a third.) `end` bounds what may be touched.
 */
static __attribute__((noinline)) void int8_row(const uint8_t* w, const uint8_t* end, const uint8_t* x, uint32_t groups,
                                               v128_t* totals) {
  const v128_t zero = wasm_i32x4_const_splat(0);
  const uint32_t group_bytes = int8_group_bytes(PANEL_ROWS);
  int32_t seen = 0;
  v128_t t0 = zero, t1 = zero, t2 = zero, t3 = zero;
  for (; groups > 0; groups--, w += group_bytes, x += INT8_ROW_BYTES) {
    v128_t s00 = zero, s01 = zero, s10 = zero, s11 = zero;
    const uint8_t* ahead = w + 2 * group_bytes <= end ? w + group_bytes / 2 : w;
    ROW_QUAD(0) ROW_QUAD(1) ROW_QUAD(2) ROW_QUAD(3) ROW_QUAD(4) ROW_QUAD(5) ROW_QUAD(6) ROW_QUAD(7)
    const int32_t offset = *(const int32_t*)(x + 64);
    const float scale = *(const float*)(x + 68);
    const float* scales = (const float*)(w + INT8_GROUP * PANEL_ROWS);
    t0 = add_group(t0, s00, offset, scales, scale);
    t1 = add_group(t1, s01, offset, scales + 4, scale);
    t2 = add_group(t2, s10, offset, scales + 8, scale);
    t3 = add_group(t3, s11, offset, scales + 12, scale);
  }
  totals[0] = t0, totals[1] = t1, totals[2] = t2, totals[3] = t3;
  /* Without a use the touches would be removed. */
  __asm__ volatile("" : : "r"(seen));
}

/* One row, the eight outputs of a half panel: rare, so one vector at a time. */
static void int8_row_half(const uint8_t* w, const uint8_t* x, uint32_t groups, v128_t* totals) {
  totals[0] = totals[1] = wasm_i32x4_const_splat(0);
  for (; groups > 0; groups--, w += INT8_GROUP * HALF_ROWS + 4 * HALF_ROWS, x += INT8_ROW_BYTES) {
    for (uint32_t half = 0; half < 2; half++) {
      v128_t sum = wasm_i32x4_const_splat(0);
      for (uint32_t quad = 0; quad < 8; quad++) {
        const v128_t odd = wasm_v128_load32_splat(x + quad * 4), difference = wasm_v128_load32_splat(x + 32 + quad * 4);
        ROW_VECTOR(sum, quad * 32 + half * 16)
      }
      totals[half] = add_group(totals[half], sum, *(const int32_t*)(x + 64), (const float*)(w + INT8_GROUP * HALF_ROWS) + 4 * half,
                               *(const float*)(x + 68));
    }
  }
}

static void one_row(const linear_t* op, uint32_t panel0, uint32_t panel1) {
  const uint32_t groups = int8_groups(op->k), stride = groups * int8_group_bytes(PANEL_ROWS);
  const uint8_t* end = (const uint8_t*)op->matrix + (uintptr_t)panel1 * stride;
  if (panel_width((panel1 - 1) * PANEL_ROWS, op->n) != PANEL_ROWS) end -= stride / 2;
  for (uint32_t panel = panel0; panel < panel1; panel++) {
    const uint8_t* w = (const uint8_t*)op->matrix + (uintptr_t)panel * stride;
    const uint32_t n = panel * PANEL_ROWS;
    v128_t totals[4];
    if (panel_width(n, op->n) == PANEL_ROWS) {
      int8_row(w, end, op->packed, groups, totals);
      store_outputs(op, 0, n, totals[0], totals[1]);
      store_outputs(op, 0, n + HALF_ROWS, totals[2], totals[3]);
    } else {
      int8_row_half(w, op->packed, groups, totals);
      store_outputs(op, 0, n, totals[0], totals[1]);
    }
  }
}

/* ---- tiles of up to four rows by eight outputs ---- */

#define TILE_ROW(r, i)                                                                                              \
  {                                                                                                                 \
    const v128_t odd = wasm_v128_load(x + 64 * i + 16 * r), difference = wasm_v128_load(x + 512 + 64 * i + 16 * r); \
    DOT(s##r##0, w0, low0, odd, difference)                                                                         \
    DOT(s##r##1, w1, low1, odd, difference)                                                                         \
  }
/* Behind the odd columns lie as many differences, then offsets and scales. */
#define START_ROW(r) v128_t s##r##0 = wasm_v128_load(x + 1024 + 16 * r), s##r##1 = s##r##0;
#define ADD_ROW(r)                                                              \
  {                                                                             \
    const v128_t scale = wasm_v128_load(x + 1088 + 16 * r);                     \
    totals[4 * r] = add_scaled(totals[4 * r], s##r##0, scales0, scale);         \
    totals[4 * r + 1] = add_scaled(totals[4 * r + 1], s##r##1, scales1, scale); \
  }
#define QUAD(rows, width, i)                                                                          \
  {                                                                                                   \
    const v128_t w0 = wasm_v128_load(w + 4 * width * i), w1 = wasm_v128_load(w + 4 * width * i + 16); \
    const v128_t low0 = wasm_v128_and(w0, LOW_BYTES), low1 = wasm_v128_and(w1, LOW_BYTES);            \
    REPEAT_##rows(TILE_ROW, i)                                                                        \
    KEEP_ORDER(rows)                                                                                  \
  }

/* totals[4 * row + half of 4]; `w` is the tile's eight rows within a panel of `width` rows. */
#define TILE_KERNEL(rows, ROWS, width)                                                                             \
  static __attribute__((noinline)) void tile_##rows##_##width(const uint8_t* w, const uint8_t* x, uint32_t groups, \
                                                              v128_t* totals) {                                    \
    for (; groups > 0; groups--, x += INT8_TILE_BYTES, w += int8_group_bytes(width)) {                             \
      ROWS(START_ROW)                                                                                              \
      QUAD(rows, width, 0) QUAD(rows, width, 1) QUAD(rows, width, 2) QUAD(rows, width, 3)                          \
      QUAD(rows, width, 4) QUAD(rows, width, 5) QUAD(rows, width, 6) QUAD(rows, width, 7)                          \
      const float* scales = (const float*)(w + INT8_GROUP * width);                                                \
      const v128_t scales0 = wasm_v128_load(scales), scales1 = wasm_v128_load(scales + 4);                         \
      ROWS(ADD_ROW)                                                                                                \
    }                                                                                                              \
  }
TILE_KERNEL(1, REPEAT_1, 16)
TILE_KERNEL(2, REPEAT_2, 16)
TILE_KERNEL(3, REPEAT_3, 16)
TILE_KERNEL(4, REPEAT_4, 16)
TILE_KERNEL(1, REPEAT_1, 8)
TILE_KERNEL(4, REPEAT_4, 8)

static void tile(uint32_t rows, const uint8_t* w, uint32_t width, const uint8_t* x, uint32_t groups, v128_t* totals) {
  /* Half panels are rare, and a tile that is not full repeats its first row. */
  if (width == HALF_ROWS) (rows == 1 ? tile_1_8 : tile_4_8)(w, x, groups, totals);
  else if (rows == 4) tile_4_16(w, x, groups, totals);
  else if (rows == 3) tile_3_16(w, x, groups, totals);
  else if (rows == 2) tile_2_16(w, x, groups, totals);
  else tile_1_16(w, x, groups, totals);
}

/* In 6 groups two tiles of activations have 14 kB, and a panel 4. Many rows read theirs from the next cache level at no cost. */
static const block_columns_t COLUMNS = {.one_tile = 12 * INT8_GROUP, .few_rows = 6 * INT8_GROUP, .many_rows = 1u << 31};

static inline __attribute__((always_inline)) void add_part(const linear_t* op, const part_t* part, void* scratch) {
  (void)op, (void)scratch;
  const uint32_t groups = int8_groups(part->columns);
  const uint8_t* x = part->x;
  v128_t* totals = part->sums;
  for (uint32_t row = 0; row < part->rows; row += ACTIVATION_TILE, x += part->tile_bytes, totals += 4 * ACTIVATION_TILE)
    for (uint32_t half = 0; half < part->width; half += HALF_ROWS)
      tile(at_most(ACTIVATION_TILE, part->rows - row), part->w + half * 4, part->width, x, groups, totals + half / 4);
}

void int8_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch) {
  if (op->num_rows == 1) one_row(op, panel0, panel1);
  else many_rows(op, panel0, panel1, COLUMNS, add_part, scratch, 0);
}
