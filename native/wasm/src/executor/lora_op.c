/**
 * Adapters beside a product: B·(A·x) for every run of rows that share a slot.
 *
 * DoRA multiplies what base and adapter added to an output by a gain per column. Where the output already holds
 * something (the residual stream), that is kept aside first.
 */
#include "product.h"

/* Rows of a group ascend in the step, so those of one segment lie together in every group. */
int next_run(const step_t* step, const uint32_t* op, uint32_t segments, cursor_t* cursor, run_t* run) {
  const uint32_t groups = num_groups(step, op);
  for (; cursor->group < groups; cursor->group++, cursor->segment = 0) {
    run->group = group_of(step, op, cursor->group);
    if (run->group.num_rows == 0) continue;
    for (; cursor->segment < segments; cursor->segment++, cursor->block = 0) {
      const int32_t* words = segment_at(step, cursor->segment);
      run->site = site_of_slot(step, words[SEGMENT_SLOT], run->group.site);
      if (!run->site) continue;
      uint32_t begin = (uint32_t)words[SEGMENT_ROW_START], end = begin + (uint32_t)words[SEGMENT_NUM_ROWS];
      if (run->group.rows) {
        begin = lower_bound(run->group.rows, run->group.num_rows, run->group.stride, begin);
        end = lower_bound(run->group.rows, run->group.num_rows, run->group.stride, end);
      }
      run->at = begin + cursor->block * ROW_BLOCK;
      if (run->at >= end) continue;
      run->row = run->group.row + run->at;
      run->num_rows = min_u32(end - run->at, ROW_BLOCK);
      cursor->block++;
      return 1;
    }
  }
  return 0;
}

int hold(step_t* step, const uint32_t* op, uint32_t segments) {
  cursor_t cursor = {0};
  uint32_t index = 0, item = 0, any = 0;
  for (run_t run; next_run(step, op, segments, &cursor, &run);) {
    if (!run.site[SITE_HOLDS]) continue;
    if (!any) item = claim(step, PHASE_HOLD, 1);
    any = 1;
    if (item == index++) {
      for (uint32_t row = run.row; row < run.row + run.num_rows; row++) {
        const float* from = output_row(op, row);
        float* to = held_row(step, op, row);
        for (uint32_t n = 0; n < op[OPERATION_N]; n++) to[n] = from[n];
      }
      item = claim(step, PHASE_HOLD, 1);
    }
  }
  return (int)any;
}

/* Columns [begin, end) of one delta: out = before + gain * (out - before). */
static void apply_gain(const step_t* step, const uint32_t* op, const run_t* run, const uint32_t* delta, uint32_t begin, uint32_t end) {
  const uint32_t offset = delta[DELTA_OUT_OFFSET];
  const float* gain = address(delta[DELTA_GAIN]);
  const float* bias = op[OPERATION_BIAS] ? (const float*)address(op[OPERATION_BIAS]) + offset : 0;
  for (uint32_t row = run->row; row < run->row + run->num_rows; row++) {
    float* out = output_row(op, row) + offset;
    const float* held = op[OPERATION_ACCUMULATE] ? held_row(step, op, row) + offset : 0;
    for (uint32_t n = begin; n < end; n++) {
      const float before = (held ? held[n] : 0.0f) + (bias ? bias[n] : 0.0f);
      out[n] = before + gain[n] * (out[n] - before);
    }
  }
}

void shrink(step_t* step, const uint32_t* op, uint32_t segments, uint32_t item, uint32_t first) {
  const uint32_t stride = step->control[CONTROL_SHRINK_STRIDE];
  cursor_t cursor = {0};
  for (run_t run; next_run(step, op, segments, &cursor, &run);) {
    const uint32_t panels = panels_of(run.site[SITE_TOTAL_RANK]);
    if (panels == 0) continue;
    /* Few adapters in a small step: split each one's ranks over the threads. Otherwise one claim each. */
    const uint32_t chunk = segments >= 2 * step->num_threads || step->num_rows > ROW_BLOCK ? panels : 2;
    const uint32_t items = (panels + chunk - 1) / chunk;
    for (; item < first + items; item = claim(step, PHASE_PANELS, 1)) {
      const linear_t product = {
          .format = run.site[SITE_FORMAT],
          .n = run.site[SITE_TOTAL_RANK],
          .k = op[OPERATION_K],
          .num_rows = run.num_rows,
          .matrix = address(run.site[SITE_A]),
          .packed = pack_group(op, run.site[SITE_FORMAT], &run.group, run.at, run.num_rows, scratch(step)),
          .bias = 0,
          .y = (float*)address(step->control[CONTROL_SHRUNK]) + (uintptr_t)run.row * stride,
          .ldy = stride,
          .mode = LINEAR_SET,
          .scale = 1.0f,
      };
      const uint32_t panel = (item - first) * chunk;
      linear_panels(&product, panel, min_u32(panel + chunk, panels), kernel_scratch(step));
    }
    first += items;
  }
}

void expand(step_t* step, const uint32_t* op, uint32_t segments) {
  const uint32_t* control = step->control;
  const uint32_t stride = control[CONTROL_SHRINK_STRIDE];
  void* packed = address(control[CONTROL_EXPAND_PACKED] + step->thread * control[CONTROL_EXPAND_PACKED_BYTES]);
  cursor_t cursor = {0};
  uint32_t item = claim(step, PHASE_EXPAND, 1), first = 0;
  for (run_t run; next_run(step, op, segments, &cursor, &run);) {
    /* Deltas of one site may overlap, so all deltas of one range of rows are one thread's, in order. */
    const uint32_t num_deltas = run.site[SITE_NUM_DELTAS];
    const uint32_t* deltas = run.site + SITE_WORDS + run.site[SITE_NUM_REPLACEMENTS] * REPLACEMENT_WORDS;
    const uint32_t panels = panels_of(op[OPERATION_N]);
    const uint32_t chunk = run.site[SITE_EXPAND_PANELS] * PANEL_ROWS;
    const uint32_t items = (panels + run.site[SITE_EXPAND_PANELS] - 1) / run.site[SITE_EXPAND_PANELS];
    for (; item < first + items; item = claim(step, PHASE_EXPAND, 1)) {
      const uint32_t out_begin = (item - first) * chunk, out_end = out_begin + chunk;
      replace(step, op, &run, out_begin, out_end);
      for (uint32_t d = 0; d < num_deltas; d++) {
        const uint32_t* delta = deltas + d * DELTA_WORDS;
        const uint32_t offset = delta[DELTA_OUT_OFFSET], width = delta[DELTA_WIDTH], rank = delta[DELTA_RANK];
        uint32_t begin, end;
        if (!panels_within(offset, width, out_begin, out_end, &begin, &end)) continue;
        const float* shrunk = (float*)address(control[CONTROL_SHRUNK]) + (uintptr_t)run.row * stride + delta[DELTA_RANK_OFFSET];
        const linear_t product = {
            .format = run.site[SITE_FORMAT],
            .n = width,
            .k = rank,
            .num_rows = run.num_rows,
            .matrix = address(delta[DELTA_B]),
            .packed = pack_rows(run.site[SITE_FORMAT], shrunk, stride, 0, run.num_rows, rank, packed),
            .bias = address(delta[DELTA_BIAS]),
            .y = output_row(op, run.row) + offset,
            .ldy = op[OPERATION_OUT_STRIDE],
            .mode = LINEAR_ADD,
            .scale = float_of(delta[DELTA_SCALE]),
        };
        linear_panels(&product, begin, end, kernel_scratch(step));
        if (delta[DELTA_GAIN]) apply_gain(step, op, &run, delta, begin * PANEL_ROWS, min_u32(end * PANEL_ROWS, width));
      }
      shift(op, &run, out_begin, out_end);
    }
    first += items;
  }
}
