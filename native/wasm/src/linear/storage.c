/** Panels: how matrices are stored, written from checkpoint rows and read back by row. */
#include <wasm_simd128.h>

#include "linear.h"
#include "panels.h"

static float float_from_half(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
  if (exponent == 31) return float_from_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = (float)mantissa * 5.9604644775390625e-8f; /* 2^-24 */
  return sign ? -magnitude : magnitude;
}

static inline float source_value(const void* source, uint32_t dtype, uint32_t i) {
  if (dtype == DTYPE_F32) return ((const float*)source)[i];
  if (dtype == DTYPE_F16) return float_from_half(((const uint16_t*)source)[i]);
  return float_from_bits((uint32_t)((const uint16_t*)source)[i] << 16);
}

static uint32_t source_bytes(uint32_t dtype) { return dtype == DTYPE_F32 ? 4 : 2; }

/* Round to nearest even. */
static uint16_t bfloat16_bits(float value) {
  const uint32_t bits = bits_from_float(value);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

uint32_t stored_bytes(uint32_t format, uint32_t width, uint32_t k) {
  if (format == FORMAT_FLOAT32) return k * width * 4;
  if (format == FORMAT_BFLOAT16) return k * width * 2;
  return int8_groups(k) * int8_group_bytes(width);
}

EXPORT(matrix_bytes) uint32_t matrix_bytes(uint32_t format, uint32_t n, uint32_t k) {
  const uint32_t rest = n % PANEL_ROWS;
  return n / PANEL_ROWS * stored_bytes(format, PANEL_ROWS, k) + (rest ? stored_bytes(format, panel_width(0, rest), k) : 0);
}

static void write_int8_row(uint8_t* panel, uint32_t width, uint32_t lane, const void* row, uint32_t dtype, uint32_t k) {
  for (uint32_t group = 0; group < int8_groups(k); group++) {
    uint8_t* block = panel + group * int8_group_bytes(width);
    float largest = 0.0f;
    for (uint32_t i = 0; i < INT8_GROUP; i++) {
      const uint32_t at = group * INT8_GROUP + i;
      const float magnitude = at < k ? __builtin_fabsf(source_value(row, dtype, at)) : 0.0f;
      largest = magnitude > largest ? magnitude : largest;
    }
    const int8_scale_t scale = int8_scale(largest);
    ((float*)(block + INT8_GROUP * width))[lane] = scale.step;
    for (uint32_t i = 0; i < INT8_GROUP; i++) {
      const uint32_t at = group * INT8_GROUP + i;
      const int32_t q = at < k ? (int32_t)__builtin_rintf(source_value(row, dtype, at) * scale.inverse) : 0;
      block[int8_offset(width, lane, i)] = (uint8_t)(i % 2 == 0 ? q + 128 : q);
    }
  }
}

EXPORT(panel_pack) uint32_t panel_pack(uint32_t format, void* matrix, uint32_t n, uint32_t k, uint32_t row0,
                                       const void* source, uint32_t source_dtype, uint32_t num_rows) {
  const uint32_t stride = stored_bytes(format, PANEL_ROWS, k);
  for (uint32_t r = 0; r < num_rows; r++) {
    const uint32_t lane = (row0 + r) % PANEL_ROWS, first = row0 + r - lane, width = panel_width(first, n);
    uint8_t* panel = (uint8_t*)matrix + first / PANEL_ROWS * stride;
    const uint8_t* row = (const uint8_t*)source + (uintptr_t)r * k * source_bytes(source_dtype);
    float difference = 0.0f;
    for (uint32_t i = 0; i < k; i++) {
      const float value = source_value(row, source_dtype, i);
      difference += value - value; /* NaN for an infinity or NaN */
      if (format == FORMAT_FLOAT32) ((float*)panel)[i * width + lane] = value;
      else if (format == FORMAT_BFLOAT16) {
        const uint16_t rounded = bfloat16_bits(value);
        const float stored = float_from_bits((uint32_t)rounded << 16);
        difference += stored - stored; /* the largest float32 numbers round up to infinity */
        ((uint16_t*)panel)[i * width + bfloat16_lane(lane)] = rounded;
      }
    }
    if (difference != 0.0f) return 1 + r;
    if (format == FORMAT_INT8) write_int8_row(panel, width, lane, row, source_dtype, k);
  }
  return 0;
}

EXPORT(panel_read_row) void panel_read_row(uint32_t format, const void* matrix, uint32_t n, uint32_t k, uint32_t row,
                                           float* out) {
  const uint32_t lane = row % PANEL_ROWS, width = panel_width(row - lane, n);
  const uint8_t* panel = (const uint8_t*)matrix + row / PANEL_ROWS * stored_bytes(format, PANEL_ROWS, k);
  for (uint32_t i = 0; i < k; i++) {
    if (format == FORMAT_FLOAT32) {
      out[i] = ((const float*)panel)[i * width + lane];
    } else if (format == FORMAT_BFLOAT16) {
      out[i] = float_from_bits((uint32_t)((const uint16_t*)panel)[i * width + bfloat16_lane(lane)] << 16);
    } else {
      const uint8_t* block = panel + i / INT8_GROUP * int8_group_bytes(width);
      const uint8_t byte = block[int8_offset(width, lane, i % INT8_GROUP)];
      const int32_t q = i % 2 == 0 ? (int32_t)byte - 128 : (int32_t)(int8_t)byte;
      out[i] = (float)q * ((const float*)(block + INT8_GROUP * width))[lane];
    }
  }
}

void panel_read_column(uint32_t format, const void* matrix, uint32_t n, uint32_t k, uint32_t column, float* out) {
  const uint32_t stride = stored_bytes(format, PANEL_ROWS, k);
  for (uint32_t row = 0; row < n; row++) {
    const uint32_t lane = row % PANEL_ROWS, width = panel_width(row - lane, n);
    const uint8_t* panel = (const uint8_t*)matrix + row / PANEL_ROWS * stride;
    out[row] = format == FORMAT_FLOAT32 ? ((const float*)panel)[column * width + lane]
                                        : float_from_bits((uint32_t)((const uint16_t*)panel)[column * width + bfloat16_lane(lane)] << 16);
  }
}
