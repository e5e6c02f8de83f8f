/**
 * The embedding: a row of the matrix for each token, the adapter's own where it has one, and what it adds.
 *
 * An adapter's A has a column for each token, so A times the one-hot vector of a token is that column.
 */
#include "linear.h"
#include "site.h"

/* The token's row as the adapter has it, or else as the base does. */
static void read_row(const uint32_t* op, const uint32_t* site, uint32_t token, float* out) {
  const uint32_t width = op[OPERATION_K];
  const uint32_t* tokens = address(site[SITE_TOKENS]);
  const uint32_t index = lower_bound(tokens, site[SITE_NUM_TOKENS], 1, token);
  if (index < site[SITE_NUM_TOKENS] && tokens[index] == token) {
    panel_read_row(site[SITE_TOKEN_FORMAT], address(site[SITE_TOKEN_ROWS]), site[SITE_NUM_TOKENS], width, index, out);
    return;
  }
  const uint32_t* own = site[SITE_NUM_REPLACEMENTS] ? site + SITE_WORDS : 0;
  panel_read_row(own ? own[REPLACEMENT_FORMAT] : op[OPERATION_FORMAT], address(own ? own[REPLACEMENT_MATRIX] : op[OPERATION_WEIGHT]),
                 op[OPERATION_N], width, token, out);
}

static void add_delta(const step_t* step, const uint32_t* op, const uint32_t* site, uint32_t token, float* out) {
  const uint32_t* delta = site + SITE_WORDS + site[SITE_NUM_REPLACEMENTS] * REPLACEMENT_WORDS;
  const uint32_t width = op[OPERATION_K], rank = delta[DELTA_RANK];
  float* column = address(step->control[CONTROL_EXPAND_PACKED] + step->thread * step->control[CONTROL_EXPAND_PACKED_BYTES]);
  panel_read_column(site[SITE_FORMAT], address(site[SITE_A]), rank, op[OPERATION_N], token, column);
  const linear_t product = {
      .format = site[SITE_FORMAT],
      .n = width,
      .k = rank,
      .num_rows = 1,
      .matrix = address(delta[DELTA_B]),
      .packed = column,
      .bias = 0,
      .y = out,
      .ldy = width,
      .mode = LINEAR_ADD,
      .scale = float_of(delta[DELTA_SCALE]),
  };
  linear_panels(&product, 0, (width + PANEL_ROWS - 1) / PANEL_ROWS, (uint8_t*)scratch(step) + step->control[CONTROL_PACKED_BLOCK_BYTES]);
  const float* gain = address(delta[DELTA_GAIN]);
  for (uint32_t i = 0; gain && i < width; i++) out[i] *= gain[i];
}

void run_embed(step_t* step, const uint32_t* op) {
  const int32_t* tokens = step->block + step->block[STEP_HEADER_TOKENS_AT];
  const int shared = row_is_shared(step, step->num_rows);
  for (uint32_t row = shared ? claim(step, 0, 1) : 0; row < step->num_rows; row = shared ? claim(step, 0, 1) : row + 1) {
    const uint32_t token = (uint32_t)tokens[row];
    const uint32_t* site = site_of_row(step, op, row);
    float* out = (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
    if (!site) {
      panel_read_row(op[OPERATION_FORMAT], address(op[OPERATION_WEIGHT]), op[OPERATION_N], op[OPERATION_K], token, out);
      continue;
    }
    /* Made ready elsewhere: a row that is not shared is written by every thread, and may only ever hold its final bits. */
    float* ready = scratch(step);
    read_row(op, site, token, ready);
    if (site[SITE_NUM_DELTAS]) add_delta(step, op, site, token, ready);
    __builtin_memcpy(out, ready, op[OPERATION_K] * sizeof(float));
  }
  if (shared) barrier(step);
}
