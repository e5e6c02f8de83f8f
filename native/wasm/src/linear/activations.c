/**
 * Packed activations.
 *
 *   float formats  one row:             f32[k]
 *                  up to SPREAD_ROWS:   tiles of four rows: f32[k][4 rows][4 times the same]
 *                  more rows:           tiles of four rows: f32[k][4 rows]
 *   int8           one row:             per 32 columns: 8 pairs of odd columns and 8 pairs of differences
 *                                       256 * even - odd, as 16-bit numbers; i32 32768 * (sum of even columns);
 *                                       f32 scale / 256
 *                  more rows:           the same for tiles of four rows, the row index innermost
 *
 * A tile that is not full repeats its first row.
 *
 * The int8 form turns sum(w * x) into two pairwise products of 16-bit lanes, with w as it is stored:
 * 256 * sum(w * x) = sum(lane * odd) + sum((lane & 255) * (256 * even - odd)) - 32768 * sum(even).
 */
#include "linear.h"
#include "panels.h"

EXPORT(activation_bytes) uint32_t activation_bytes(uint32_t format, uint32_t num_rows, uint32_t k) {
  if (format == FORMAT_INT8)
    return num_rows == 1 ? int8_groups(k) * INT8_ROW_BYTES : tiles_of(num_rows) * int8_groups(k) * INT8_TILE_BYTES;
  if (num_rows == 1) return k * 4;
  return tiles_of(num_rows) * ACTIVATION_TILE * k * (num_rows <= SPREAD_ROWS ? 16 : 4);
}

typedef struct {
  int16_t odd[INT8_GROUP / 2], difference[INT8_GROUP / 2];
  int32_t offset;
  float scale;
} int8_group_t;

/* Quantises up to 32 columns of one row. */
static int8_group_t quantise(const float* x, uint32_t count) {
  float padded[INT8_GROUP];
  if (count < INT8_GROUP) {
    for (uint32_t i = 0; i < INT8_GROUP; i++) padded[i] = i < count ? x[i] : 0.0f;
    x = padded;
  }
  v128_t largest = wasm_f32x4_abs(wasm_v128_load(x));
  for (uint32_t i = 4; i < INT8_GROUP; i += 4) largest = wasm_f32x4_pmax(largest, wasm_f32x4_abs(wasm_v128_load(x + i)));
  largest = wasm_f32x4_pmax(largest, wasm_i32x4_shuffle(largest, largest, 2, 3, 0, 1));
  largest = wasm_f32x4_pmax(largest, wasm_i32x4_shuffle(largest, largest, 1, 0, 3, 2));
  const int8_scale_t scale = int8_scale(wasm_f32x4_extract_lane(largest, 0));
  /* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits. */
  const v128_t magic = wasm_f32x4_const_splat(12582912.0f), inverse = wasm_f32x4_splat(scale.inverse);
  int32_t q[INT8_GROUP];
  for (uint32_t i = 0; i < INT8_GROUP; i += 4) {
    const v128_t rounded = wasm_f32x4_add(wasm_f32x4_mul(wasm_v128_load(x + i), inverse), magic);
    wasm_v128_store(q + i, wasm_i32x4_sub(rounded, magic));
  }
  int8_group_t group;
  int32_t even_sum = 0;
  for (uint32_t i = 0; i < INT8_GROUP / 2; i++) {
    group.odd[i] = (int16_t)q[2 * i + 1];
    group.difference[i] = (int16_t)(256 * q[2 * i] - q[2 * i + 1]);
    even_sum += q[2 * i];
  }
  group.offset = 32768 * even_sum;
  group.scale = scale.step * 0.00390625f;
  return group;
}

/* `rows` interleaved rows (1 or 4) of packed int8 activations. */
static void pack_int8(uint8_t* packed, const float* const* x, uint32_t rows, uint32_t k) {
  for (uint32_t column = 0; column < k; column += INT8_GROUP) {
    int32_t* pairs = (int32_t*)packed;
    for (uint32_t r = 0; r < rows; r++) {
      const int8_group_t group = quantise(x[r] + column, k - column < INT8_GROUP ? k - column : INT8_GROUP);
      for (uint32_t i = 0; i < 8; i++) {
        __builtin_memcpy(&pairs[i * rows + r], &group.odd[2 * i], 4);
        __builtin_memcpy(&pairs[(8 + i) * rows + r], &group.difference[2 * i], 4);
      }
      pairs[16 * rows + r] = group.offset;
      __builtin_memcpy(&pairs[17 * rows + r], &group.scale, 4);
    }
    packed += 18 * 4 * rows;
  }
}

static void pack_tile(float* tile, const float* const* rows, uint32_t k) {
  uint32_t i = 0;
  for (; i + 4 <= k; i += 4) {
    const v128_t a = wasm_v128_load(rows[0] + i), b = wasm_v128_load(rows[1] + i);
    const v128_t c = wasm_v128_load(rows[2] + i), d = wasm_v128_load(rows[3] + i);
    const v128_t ab0 = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), ab1 = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7);
    const v128_t cd0 = wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), cd1 = wasm_i32x4_shuffle(c, d, 2, 6, 3, 7);
    wasm_v128_store(tile + i * 4, wasm_i64x2_shuffle(ab0, cd0, 0, 2));
    wasm_v128_store(tile + i * 4 + 4, wasm_i64x2_shuffle(ab0, cd0, 1, 3));
    wasm_v128_store(tile + i * 4 + 8, wasm_i64x2_shuffle(ab1, cd1, 0, 2));
    wasm_v128_store(tile + i * 4 + 12, wasm_i64x2_shuffle(ab1, cd1, 1, 3));
  }
  for (; i < k; i++)
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) tile[i * 4 + r] = rows[r][i];
}

static void spread_tile(float* tile, const float* const* rows, uint32_t k) {
  for (uint32_t i = 0; i < k; i++)
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) wasm_v128_store(tile + i * 16 + r * 4, wasm_f32x4_splat(rows[r][i]));
}

EXPORT(activation_pack) void activation_pack(uint32_t format, void* packed, const float* x, uint32_t ldx, uint32_t num_rows,
                                             uint32_t k, uint32_t tile0, uint32_t tile1) {
  const uint32_t rows_packed = num_rows == 1 ? 1 : ACTIVATION_TILE;
  const uint32_t stride = num_rows == 1 ? 0 : activation_bytes(format, num_rows, k) / tiles_of(num_rows);
  for (uint32_t tile = tile0; tile < tile1; tile++) {
    const float* rows[ACTIVATION_TILE];
    for (uint32_t r = 0; r < rows_packed; r++) {
      const uint32_t row = tile * ACTIVATION_TILE + r;
      rows[r] = x + (uintptr_t)(row < num_rows ? row : tile * ACTIVATION_TILE) * ldx;
    }
    uint8_t* out = (uint8_t*)packed + (uintptr_t)tile * stride;
    if (format == FORMAT_INT8) pack_int8(out, rows, rows_packed, k);
    else if (num_rows == 1) __builtin_memcpy(out, x, k * 4);
    else if (num_rows <= SPREAD_ROWS) spread_tile((float*)out, rows, k);
    else pack_tile((float*)out, rows, k);
  }
}
