/** DoRA's gains: how much longer or shorter each row of a changed matrix is made. */
#include "linear.h"
#include "panels.h"

/*
 *   gain[r] = magnitude[r] / |W[r] + scale * sum_j B[r, j] A[j]|
 *
 * Once per adapter, when it is laid out. Rows [row0, row0 + num_rows) of the base matrix meet rows b_row0 and on
 * of B; a is [rank, k] in floats, scratch holds k + rank floats.
 */
EXPORT(dora_gains) void dora_gains(uint32_t format, const void* base, uint32_t n, uint32_t k, uint32_t row0, uint32_t num_rows,
                                   const float* a, uint32_t rank, uint32_t b_format, const void* b, uint32_t b_n,
                                   uint32_t b_row0, float scale, const float* magnitude, float* gain, float* scratch) {
  float *row = scratch, *coefficients = scratch + k;
  for (uint32_t r = 0; r < num_rows; r++) {
    panel_read_row(format, base, n, k, row0 + r, row);
    panel_read_row(b_format, b, b_n, rank, b_row0 + r, coefficients);
    for (uint32_t j = 0; j < rank; j++) {
      const float factor = scale * coefficients[j];
      for (uint32_t i = 0; i < k; i++) row[i] += factor * a[j * k + i];
    }
    double sum = 0.0;
    for (uint32_t i = 0; i < k; i++) sum += (double)row[i] * row[i];
    gain[r] = (float)(magnitude[r] / __builtin_sqrt(sum));
  }
}

/*
 * The same where outputs are columns, as an embedding's are: adds the squares of n rows of the base matrix to sums [k].
 * They meet columns a_column0 and on of A; b is [k, rank] in floats, scratch holds k + rank floats.
 */
EXPORT(dora_column_squares) void dora_column_squares(uint32_t format, const void* base, uint32_t n, uint32_t k, const float* b,
                                                     uint32_t rank, uint32_t a_format, const void* a, uint32_t a_columns,
                                                     uint32_t a_column0, float scale, double* sums, float* scratch) {
  float *row = scratch, *column = scratch + k;
  for (uint32_t r = 0; r < n; r++) {
    panel_read_row(format, base, n, k, r, row);
    panel_read_column(a_format, a, rank, a_columns, a_column0 + r, column);
    for (uint32_t i = 0; i < k; i++) {
      float added = 0.0f;
      for (uint32_t j = 0; j < rank; j++) added += b[i * rank + j] * column[j];
      const double value = row[i] + scale * added;
      sums[i] += value * value;
    }
  }
}

EXPORT(dora_column_gains) void dora_column_gains(uint32_t k, const double* sums, const float* magnitude, float* gain) {
  for (uint32_t i = 0; i < k; i++) gain[i] = (float)(magnitude[i] / __builtin_sqrt(sums[i]));
}
