/**
 * Rows of a base matrix, and biases, that an adapter has of its own: what the base made of its rows is written over.
 *
 * Only rows of that adapter are; a step in which all rows have the whole matrix replaced leaves the base's out.
 */
#include "product.h"

int replaces_all(const step_t* step, const uint32_t* op, uint32_t segments) {
  cursor_t cursor = {0};
  uint32_t replaced = 0;
  for (run_t run; next_run(step, op, segments, &cursor, &run);)
    if (run.site[SITE_REPLACES_ALL]) replaced += run.num_rows;
  return replaced == rows_of(step, op);
}

static linear_t own_product(step_t* step, const uint32_t* op, const run_t* run, uint32_t format, uint32_t n, uint32_t matrix) {
  return (linear_t){
      .format = format,
      .n = n,
      .k = op[OPERATION_K],
      .num_rows = run->num_rows,
      .matrix = address(matrix),
      .packed = pack_group(op, format, &run->group, run->at, run->num_rows, scratch(step)),
      .bias = 0,
      .mode = LINEAR_SET,
      .scale = 1.0f,
  };
}

/* Outputs [begin, end) that are the rows of one matrix. */
static void replace_run(step_t* step, const uint32_t* op, const run_t* run, const uint32_t* own, uint32_t begin, uint32_t end) {
  const uint32_t offset = own[REPLACEMENT_OUT_OFFSET], width = own[REPLACEMENT_WIDTH];
  uint32_t first, last;
  if (!panels_within(offset, width, begin, end, &first, &last)) return;
  linear_t product = own_product(step, op, run, own[REPLACEMENT_FORMAT], width, own[REPLACEMENT_MATRIX]);
  product.bias = op[OPERATION_BIAS] ? (const float*)address(op[OPERATION_BIAS]) + offset : 0;
  product.y = output_row(op, run->row) + offset;
  product.ldy = op[OPERATION_OUT_STRIDE];
  linear_panels(&product, first, last, kernel_scratch(step));
  if (!op[OPERATION_ACCUMULATE]) return;
  const uint32_t stop = min_u32(last * PANEL_ROWS, width);
  for (uint32_t row = run->row; row < run->row + run->num_rows; row++)
    for (uint32_t n = offset + first * PANEL_ROWS; n < offset + stop; n++) output_row(op, row)[n] += held_row(step, op, row)[n];
}

/* Outputs among [begin, end) that are listed one by one. */
static void replace_listed(step_t* step, const uint32_t* op, const run_t* run, uint32_t begin, uint32_t end) {
  const uint32_t* tokens = address(run->site[SITE_TOKENS]);
  const uint32_t count = run->site[SITE_NUM_TOKENS];
  const uint32_t low = lower_bound(tokens, count, 1, begin), high = lower_bound(tokens, count, 1, end);
  if (low == high) return;
  float panel_out[ROW_BLOCK * PANEL_ROWS];
  linear_t product = own_product(step, op, run, run->site[SITE_TOKEN_FORMAT], count, run->site[SITE_TOKEN_ROWS]);
  product.ldy = PANEL_ROWS;
  for (uint32_t panel = low / PANEL_ROWS; panel * PANEL_ROWS < high; panel++) {
    const uint32_t start = panel * PANEL_ROWS;
    product.y = panel_out - start;
    linear_panels(&product, panel, panel + 1, kernel_scratch(step));
    for (uint32_t i = max_u32(low, start); i < min_u32(high, start + PANEL_ROWS); i++)
      for (uint32_t row = 0; row < run->num_rows; row++) output_row(op, run->row + row)[tokens[i]] = panel_out[row * PANEL_ROWS + i - start];
  }
}

void replace(step_t* step, const uint32_t* op, const run_t* run, uint32_t begin, uint32_t end) {
  for (uint32_t i = 0; i < run->site[SITE_NUM_REPLACEMENTS]; i++)
    replace_run(step, op, run, run->site + SITE_WORDS + i * REPLACEMENT_WORDS, begin, end);
  replace_listed(step, op, run, begin, end);
}

void shift(const uint32_t* op, const run_t* run, uint32_t begin, uint32_t end) {
  const float* shift = address(run->site[SITE_SHIFT]);
  if (!shift) return;
  end = min_u32(end, op[OPERATION_N]);
  for (uint32_t row = run->row; row < run->row + run->num_rows; row++)
    for (uint32_t n = begin; n < end; n++) output_row(op, row)[n] += shift[n];
}
