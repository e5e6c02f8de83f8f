/**
 * A linear operation: base weights for all rows, and each adapter's A and B for its own run of rows.
 *
 *   pack x  |  base panels and shrink (A·x)  |  expand (out += scale * B·(A·x))
 *
 * `|` is a barrier. Rows without an adapter take no part in shrink and expand, and a step without any has
 * neither phase.
 */
#include "executor.h"
#include "linear.h"

enum { PHASE_PACK = 0, PHASE_PACK_LORA = 1, PHASE_PANELS = 2, PHASE_EXPAND = 3 };

/* Rows packed per claim, in tiles: eight rows of decode should keep two threads busy. */
enum { PACK_TILES = 1 };

typedef struct {
  const uint32_t* site; /* SITE record, 0 when the adapter leaves this operation alone */
  uint32_t row, num_rows;
  const void* packed;
} lora_run_t;

static uint32_t tiles_of(uint32_t num_rows) { return (num_rows + ACTIVATION_TILE - 1) / ACTIVATION_TILE; }
static uint32_t panels_of(uint32_t n) { return (n + PANEL_ROWS - 1) / PANEL_ROWS; }

static const float* input_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
}
static float* output_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
}

static uint32_t num_segments(const step_t* step, const uint32_t* op) {
  return (int32_t)op[OPERATION_SITE] < 0 ? 0 : (uint32_t)step->block[STEP_HEADER_NUM_SEGMENTS];
}

/*
 * Equal claims, up to eight per thread so that one that was preempted does not hold up the rest; but none so
 * short that the memory's prefetching starts over all the time: with 72 kB it cost a fifth of the bandwidth.
 */
static uint32_t panels_per_claim(const step_t* step, uint32_t panels, uint32_t k, uint32_t format) {
  static const uint32_t element_bytes[] = {[FORMAT_FLOAT32] = 4, [FORMAT_BFLOAT16] = 2, [FORMAT_INT8] = 1};
  const uint32_t enough = (512u << 10) / (k * PANEL_ROWS * element_bytes[format]) + 1;
  const uint32_t share = (panels + step->num_threads - 1) / step->num_threads;
  const uint32_t claims = max_u32(1, min_u32(8, share / enough));
  return (share + claims - 1) / claims;
}

/* A single row of floats is its own packed form. */
static int is_packed(uint32_t format, uint32_t num_rows) { return num_rows == 1 && format != FORMAT_INT8; }

/* The i-th segment; `packed_at` is where its packed activations begin and moves on to the next one's. */
static lora_run_t lora_run(const step_t* step, const uint32_t* op, uint32_t i, uint32_t* packed_at) {
  const int32_t* segment = step->block + step->block[STEP_HEADER_SEGMENTS_AT] + i * SEGMENT_WORDS;
  const uint32_t* sites = address(step->control[CONTROL_SLOT_SITES]);
  lora_run_t run;
  run.row = (uint32_t)segment[SEGMENT_ROW_START];
  run.num_rows = (uint32_t)segment[SEGMENT_NUM_ROWS];
  run.site = address(sites[(uint32_t)segment[SEGMENT_SLOT] * step->control[CONTROL_NUM_SITES] + op[OPERATION_SITE]]);
  run.packed = address(*packed_at);
  if (!run.site) return run;
  if (is_packed(run.site[SITE_FORMAT], run.num_rows)) run.packed = input_row(op, run.row);
  else *packed_at += (activation_bytes(run.site[SITE_FORMAT], run.num_rows, op[OPERATION_K]) + 63) & ~63u;
  return run;
}

static void pack_lora(step_t* step, const uint32_t* op, uint32_t segments) {
  uint32_t item = claim(step, PHASE_PACK_LORA, 1), first = 0, packed_at = step->control[CONTROL_PACKED_LORA];
  for (uint32_t i = 0; i < segments; i++) {
    const lora_run_t run = lora_run(step, op, i, &packed_at);
    if (!run.site || is_packed(run.site[SITE_FORMAT], run.num_rows)) continue;
    const uint32_t items = (tiles_of(run.num_rows) + PACK_TILES - 1) / PACK_TILES;
    for (; item < first + items; item = claim(step, PHASE_PACK_LORA, 1)) {
      const uint32_t tile = (item - first) * PACK_TILES;
      activation_pack(run.site[SITE_FORMAT], (void*)run.packed, input_row(op, run.row), op[OPERATION_X_STRIDE], run.num_rows,
                      op[OPERATION_K], tile, min_u32(tile + PACK_TILES, tiles_of(run.num_rows)));
    }
    first += items;
  }
}

/* Queue positions before `first` belong to the base matrix. */
static void shrink(step_t* step, const uint32_t* op, uint32_t segments, uint32_t item, uint32_t first, void* memory) {
  const uint32_t stride = step->control[CONTROL_SHRINK_STRIDE];
  uint32_t packed_at = step->control[CONTROL_PACKED_LORA];
  for (uint32_t i = 0; i < segments; i++) {
    const lora_run_t run = lora_run(step, op, i, &packed_at);
    if (!run.site) continue;
    const uint32_t panels = panels_of(run.site[SITE_TOTAL_RANK]);
    /* Few adapters: split each one's ranks over the threads. Many: one claim each. */
    const uint32_t chunk = segments >= 2 * step->num_threads ? panels : 2;
    const uint32_t items = (panels + chunk - 1) / chunk;
    for (; item < first + items; item = claim(step, PHASE_PANELS, 1)) {
      const linear_t product = {
          .format = run.site[SITE_FORMAT],
          .n = run.site[SITE_TOTAL_RANK],
          .k = op[OPERATION_K],
          .num_rows = run.num_rows,
          .matrix = address(run.site[SITE_A]),
          .packed = run.packed,
          .bias = 0,
          .y = (float*)address(step->control[CONTROL_SHRUNK]) + (uintptr_t)run.row * stride,
          .ldy = stride,
          .mode = LINEAR_SET,
          .scale = 1.0f,
      };
      const uint32_t panel = (item - first) * chunk;
      linear_panels(&product, panel, min_u32(panel + chunk, panels), memory);
    }
    first += items;
  }
}

static void expand(step_t* step, const uint32_t* op, uint32_t segments, void* memory) {
  const uint32_t* control = step->control;
  const uint32_t stride = control[CONTROL_SHRINK_STRIDE];
  void* packed = address(control[CONTROL_EXPAND_PACKED] + step->thread * control[CONTROL_EXPAND_PACKED_BYTES]);
  uint32_t item = claim(step, PHASE_EXPAND, 1), first = 0, packed_at = control[CONTROL_PACKED_LORA];
  for (uint32_t i = 0; i < segments; i++) {
    const lora_run_t run = lora_run(step, op, i, &packed_at);
    if (!run.site) continue;
    /* Deltas of one site may overlap, so all deltas of one range of rows are one thread's, in order. */
    const uint32_t num_deltas = run.site[SITE_NUM_DELTAS];
    const uint32_t panels = panels_of(op[OPERATION_N]);
    const uint32_t chunk = run.site[SITE_EXPAND_PANELS] * PANEL_ROWS;
    const uint32_t items = (panels + run.site[SITE_EXPAND_PANELS] - 1) / run.site[SITE_EXPAND_PANELS];
    for (; item < first + items; item = claim(step, PHASE_EXPAND, 1)) {
      const uint32_t out_begin = (item - first) * chunk, out_end = out_begin + chunk;
      for (uint32_t d = 0; d < num_deltas; d++) {
        const uint32_t* delta = run.site + SITE_WORDS + d * DELTA_WORDS;
        const uint32_t offset = delta[DELTA_OUT_OFFSET], width = delta[DELTA_WIDTH], rank = delta[DELTA_RANK];
        if (offset >= out_end || offset + width <= out_begin) continue;
        const uint32_t begin = out_begin <= offset ? 0 : panels_of(out_begin - offset);
        const uint32_t end = min_u32(panels_of(out_end - offset), panels_of(width));
        if (begin >= end) continue;
        const float* shrunk = (float*)address(control[CONTROL_SHRUNK]) + (uintptr_t)run.row * stride + delta[DELTA_RANK_OFFSET];
        const int as_is = is_packed(run.site[SITE_FORMAT], run.num_rows);
        if (!as_is) activation_pack(run.site[SITE_FORMAT], packed, shrunk, stride, run.num_rows, rank, 0, tiles_of(run.num_rows));
        const linear_t product = {
            .format = run.site[SITE_FORMAT],
            .n = width,
            .k = rank,
            .num_rows = run.num_rows,
            .matrix = address(delta[DELTA_B]),
            .packed = as_is ? (const void*)shrunk : packed,
            .bias = address(delta[DELTA_BIAS]),
            .y = output_row(op, run.row) + offset,
            .ldy = op[OPERATION_OUT_STRIDE],
            .mode = LINEAR_ADD,
            .scale = float_of(delta[DELTA_SCALE]),
        };
        linear_panels(&product, begin, end, memory);
      }
    }
    first += items;
  }
}

void run_linear(step_t* step, const uint32_t* op) {
  const uint32_t num_rows = rows_of(step, op), k = op[OPERATION_K], format = op[OPERATION_FORMAT];
  const uint32_t segments = num_segments(step, op);
  uint8_t* memory = scratch(step);

  linear_t base = {
      .format = format,
      .n = op[OPERATION_N],
      .k = k,
      .num_rows = num_rows,
      .matrix = address(op[OPERATION_WEIGHT]),
      .packed = address(step->control[CONTROL_PACKED]),
      .bias = address(op[OPERATION_BIAS]),
      .y = output_row(op, 0),
      .ldy = op[OPERATION_OUT_STRIDE],
      .mode = op[OPERATION_ACCUMULATE] ? LINEAR_ADD : LINEAR_SET,
      .scale = 1.0f,
  };
  if (num_rows == 1 && segments == 0) {
    /* Each thread packs the single row for itself: cheaper than meeting at a barrier. */
    base.packed = input_row(op, 0);
    if (!is_packed(format, 1)) {
      activation_pack(format, memory, input_row(op, 0), op[OPERATION_X_STRIDE], 1, k, 0, 1);
      base.packed = memory;
      memory += (activation_bytes(format, 1, k) + 63) & ~63u;
    }
  } else {
    for (uint32_t tile = claim(step, PHASE_PACK, PACK_TILES); tile < tiles_of(num_rows); tile = claim(step, PHASE_PACK, PACK_TILES))
      activation_pack(format, (void*)base.packed, input_row(op, 0), op[OPERATION_X_STRIDE], num_rows, k, tile,
                      min_u32(tile + PACK_TILES, tiles_of(num_rows)));
    if (segments) pack_lora(step, op, segments);
    barrier(step);
  }

  const uint32_t panels = panels_of(op[OPERATION_N]);
  const uint32_t chunk = panels_per_claim(step, panels, k, format);
  const uint32_t items = (panels + chunk - 1) / chunk;
  uint32_t item = claim(step, PHASE_PANELS, 1);
  for (; item < items; item = claim(step, PHASE_PANELS, 1))
    linear_panels(&base, item * chunk, min_u32((item + 1) * chunk, panels), memory);
  if (segments) {
    shrink(step, op, segments, item, items, memory);
    barrier(step);
    expand(step, op, segments, memory);
  }
  barrier(step);
}
