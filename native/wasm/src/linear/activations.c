/**
 * Packed activations.
 *
 *   float formats  one row:    f32[k]
 *                  more rows:  tiles of four rows: f32[k][4 rows][4 times the same]
 *   int8           one row:    per 32 columns: 8 pairs of odd columns and 8 pairs of differences
 *                              256 * even - odd, as 16-bit numbers; i32 -32768 * (sum of even columns);
 *                              f32 scale / 256
 *                  more rows:  the same for tiles of four rows, each pair as four copies: i32[8][4 rows][4] odd,
 *                              as many differences, then i32[4 rows][4] and f32[4 rows][4]
 *
 * Four copies of a number are one load for the kernels; a copy made there takes one of the few units that multiply
 * and add need too: a sixth of the speed. They cost room, so callers give a block of rows at a time.
 *
 * A tile that is not full repeats its first row.
 *
 * The int8 form turns sum(w * x) into two pairwise products of 16-bit lanes, with w as it is stored:
 * 256 * sum(w * x) = sum(lane * odd) + sum((lane & 255) * (256 * even - odd)) - 32768 * sum(even).
 */
#include "linear.h"
#include "panels.h"

EXPORT(activation_bytes) uint32_t activation_bytes(uint32_t format, uint32_t num_rows, uint32_t k) {
  const uint32_t tiles = tiles_of(num_rows);
  if (format == FORMAT_INT8) return int8_groups(k) * (num_rows == 1 ? INT8_ROW_BYTES : tiles * INT8_TILE_BYTES);
  return num_rows == 1 ? k * 4 : tiles * ACTIVATION_TILE * k * 16;
}

typedef struct {
  v128_t odd[2], difference[2];
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
  /* Integers have no NaN, and the largest may skip one. So the scale carries it: 0 while all numbers are finite. */
  const v128_t nothing = wasm_f32x4_const_splat(0.0f);
  v128_t poison = nothing;
  for (uint32_t i = 0; i < INT8_GROUP; i += 4) poison = wasm_f32x4_add(poison, wasm_f32x4_mul(wasm_v128_load(x + i), nothing));
  /* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits. */
  const v128_t magic = wasm_f32x4_const_splat(12582912.0f), inverse = wasm_f32x4_splat(scale.inverse);
  int8_group_t group;
  v128_t even_sum = wasm_i32x4_const_splat(0);
  for (uint32_t half = 0; half < 2; half++, x += 16) {
    v128_t even[2], odd[2];
    for (uint32_t i = 0; i < 2; i++) {
      const v128_t a = wasm_i32x4_sub(wasm_f32x4_add(wasm_f32x4_mul(wasm_v128_load(x + 8 * i), inverse), magic), magic);
      const v128_t b = wasm_i32x4_sub(wasm_f32x4_add(wasm_f32x4_mul(wasm_v128_load(x + 8 * i + 4), inverse), magic), magic);
      even[i] = wasm_i32x4_shuffle(a, b, 0, 2, 4, 6);
      odd[i] = wasm_i32x4_shuffle(a, b, 1, 3, 5, 7);
      even_sum = wasm_i32x4_add(even_sum, even[i]);
    }
    const v128_t evens = wasm_i16x8_narrow_i32x4(even[0], even[1]);
    group.odd[half] = wasm_i16x8_narrow_i32x4(odd[0], odd[1]);
    group.difference[half] = wasm_i16x8_sub(wasm_i16x8_mul(evens, wasm_i16x8_const_splat(256)), group.odd[half]);
  }
  group.offset = -32768 * (wasm_i32x4_extract_lane(even_sum, 0) + wasm_i32x4_extract_lane(even_sum, 1) +
                          wasm_i32x4_extract_lane(even_sum, 2) + wasm_i32x4_extract_lane(even_sum, 3));
  group.scale = scale.step * 0.00390625f + (wasm_f32x4_extract_lane(poison, 0) + wasm_f32x4_extract_lane(poison, 1) +
                                            wasm_f32x4_extract_lane(poison, 2) + wasm_f32x4_extract_lane(poison, 3));
  return group;
}

static void pack_int8_row(uint8_t* packed, const float* x, uint32_t k) {
  for (uint32_t column = 0; column < k; column += INT8_GROUP, packed += INT8_ROW_BYTES) {
    const int8_group_t group = quantise(x + column, k - column < INT8_GROUP ? k - column : INT8_GROUP);
    for (uint32_t half = 0; half < 2; half++) {
      wasm_v128_store(packed + 16 * half, group.odd[half]);
      wasm_v128_store(packed + 32 + 16 * half, group.difference[half]);
    }
    *(int32_t*)(packed + 64) = group.offset;
    *(float*)(packed + 68) = group.scale;
  }
}

/* Four copies of each of four pairs, for pairs of one row `64` bytes apart. */
static inline void spread_pairs(uint8_t* to, v128_t pairs) {
  wasm_v128_store(to, DUP(pairs, 0));
  wasm_v128_store(to + 64, DUP(pairs, 1));
  wasm_v128_store(to + 128, DUP(pairs, 2));
  wasm_v128_store(to + 192, DUP(pairs, 3));
}

static void pack_int8_tile(uint8_t* packed, const float* const* x, uint32_t k) {
  for (uint32_t column = 0; column < k; column += INT8_GROUP, packed += INT8_TILE_BYTES) {
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) {
      const int8_group_t group = quantise(x[r] + column, k - column < INT8_GROUP ? k - column : INT8_GROUP);
      for (uint32_t half = 0; half < 2; half++) {
        spread_pairs(packed + 16 * r + 256 * half, group.odd[half]);
        spread_pairs(packed + 512 + 16 * r + 256 * half, group.difference[half]);
      }
      wasm_v128_store(packed + 1024 + 16 * r, wasm_i32x4_splat(group.offset));
      wasm_v128_store(packed + 1088 + 16 * r, wasm_f32x4_splat(group.scale));
    }
  }
}

static void pack_float_tile(float* tile, const float* const* x, uint32_t k) {
  uint32_t i = 0;
  for (; i + 4 <= k; i += 4) {
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) {
      const v128_t four = wasm_v128_load(x[r] + i);
      float* to = tile + i * 16 + r * 4;
      wasm_v128_store(to, DUP(four, 0));
      wasm_v128_store(to + 16, DUP(four, 1));
      wasm_v128_store(to + 32, DUP(four, 2));
      wasm_v128_store(to + 48, DUP(four, 3));
    }
  }
  for (; i < k; i++)
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) wasm_v128_store(tile + i * 16 + r * 4, wasm_f32x4_splat(x[r][i]));
}

EXPORT(activation_pack) void activation_pack(uint32_t format, void* packed, const float* x, uint32_t ldx, uint32_t num_rows,
                                             uint32_t k, uint32_t tile0, uint32_t tile1) {
  activation_gather(format, packed, x, ldx, 0, num_rows, k, tile0, tile1);
}

void activation_gather(uint32_t format, void* packed, const float* x, uint32_t ldx, const uint32_t* sources, uint32_t num_rows,
                       uint32_t k, uint32_t tile0, uint32_t tile1) {
  if (num_rows == 1) {
    if (sources) x += (uintptr_t)sources[0] * ldx;
    if (format == FORMAT_INT8) pack_int8_row(packed, x, k);
    else __builtin_memcpy(packed, x, k * 4);
    return;
  }
  const uint32_t stride = activation_bytes(format, ACTIVATION_TILE, k);
  for (uint32_t tile = tile0; tile < tile1; tile++) {
    const float* rows[ACTIVATION_TILE];
    for (uint32_t r = 0; r < ACTIVATION_TILE; r++) {
      const uint32_t at = tile * ACTIVATION_TILE + r, row = at < num_rows ? at : tile * ACTIVATION_TILE;
      rows[r] = x + (uintptr_t)(sources ? sources[row] : row) * ldx;
    }
    uint8_t* out = (uint8_t*)packed + (uintptr_t)tile * stride;
    if (format == FORMAT_INT8) pack_int8_tile(out, rows, k);
    else pack_float_tile((float*)out, rows, k);
  }
}
