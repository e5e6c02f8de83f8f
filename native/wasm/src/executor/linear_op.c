/**
 * A linear operation: base weights for all rows, and each adapter's A and B for its own run of rows.
 *
 *   base panels and shrink (A·x)  |  expand (out += scale * B·(A·x))
 *
 * `|` is a barrier. Rows without an adapter take no part in shrink and expand, and a step without any has neither.
 * Rows are packed in blocks of up to ROW_BLOCK. The rows of a decode step are one block, which the threads pack
 * together, with another barrier before the base panels. Of many rows, every thread takes blocks and packs them for
 * itself: they stay in its own cache, at four times the size of the numbers in them.
 *
 * DoRA multiplies what base and adapter added to an output by a gain per column. Where the output already holds
 * something (the residual stream), that is kept aside first, with a barrier of its own.
 */
#include "executor.h"
#include "linear.h"

enum { PHASE_PACK = 0, PHASE_PANELS = 1, PHASE_EXPAND = 2, PHASE_HOLD = 3 };

/* Claims per thread when there are several blocks of rows: one that was preempted does not hold up the rest. */
enum { CLAIMS_PER_THREAD = 4 };
/* Panels per claim that pay for packing a block of rows. */
enum { PANELS_PER_PACK = 8 };

/* Rows of one slot, at most a block of them. */
typedef struct {
  const uint32_t* site; /* SITE record, 0 when the adapter leaves this operation alone */
  uint32_t row, num_rows;
} lora_run_t;

static uint32_t tiles_of(uint32_t num_rows) { return (num_rows + ACTIVATION_TILE - 1) / ACTIVATION_TILE; }
static uint32_t panels_of(uint32_t n) { return (n + PANEL_ROWS - 1) / PANEL_ROWS; }

static const float* input_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
}
static float* output_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
}

/* Kernels' own memory; in front of it is room for a packed block of rows. */
static void* kernel_scratch(const step_t* step) { return (uint8_t*)scratch(step) + step->control[CONTROL_PACKED_BLOCK_BYTES]; }

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

/* Packs rows for this thread alone. A single row of floats is its own packed form. */
static const void* pack_rows(uint32_t format, const float* x, uint32_t ldx, uint32_t num_rows, uint32_t k, void* memory) {
  if (num_rows == 1 && format != FORMAT_INT8) return x;
  activation_pack(format, memory, x, ldx, num_rows, k, 0, tiles_of(num_rows));
  return memory;
}

/* Steps through the blocks of all segments; `block` counts within segment `*segment`. Returns 0 behind the last. */
static int next_run(const step_t* step, const uint32_t* op, uint32_t segments, uint32_t* segment, uint32_t* block, lora_run_t* run) {
  for (; *segment < segments; (*segment)++, *block = 0) {
    const int32_t* words = step->block + step->block[STEP_HEADER_SEGMENTS_AT] + *segment * SEGMENT_WORDS;
    const uint32_t* sites = address(step->control[CONTROL_SLOT_SITES]);
    const uint32_t num_rows = (uint32_t)words[SEGMENT_NUM_ROWS], at = *block * ROW_BLOCK;
    run->site = address(sites[(uint32_t)words[SEGMENT_SLOT] * step->control[CONTROL_NUM_SITES] + op[OPERATION_SITE]]);
    if (!run->site || at >= num_rows) continue;
    run->row = (uint32_t)words[SEGMENT_ROW_START] + at;
    run->num_rows = min_u32(num_rows - at, ROW_BLOCK);
    (*block)++;
    return 1;
  }
  return 0;
}

/* What out held before this operation, for adapters with gains: [rows][n] of the operation. */
static float* held_row(const step_t* step, const uint32_t* op, uint32_t row) {
  return (float*)address(step->control[CONTROL_HELD]) + (uintptr_t)row * op[OPERATION_N];
}

/* Returns whether any run has gains, the same for every thread. */
static int hold(step_t* step, const uint32_t* op, uint32_t segments) {
  uint32_t segment = 0, block = 0, index = 0, item = 0, any = 0;
  for (lora_run_t run; next_run(step, op, segments, &segment, &block, &run);) {
    if (!run.site[SITE_HAS_GAINS]) continue;
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
static void apply_gain(const step_t* step, const uint32_t* op, const lora_run_t* run, const uint32_t* delta, uint32_t begin, uint32_t end) {
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

/* Queue positions before `first` belong to the base matrix. */
static void shrink(step_t* step, const uint32_t* op, uint32_t segments, uint32_t item, uint32_t first) {
  const uint32_t stride = step->control[CONTROL_SHRINK_STRIDE];
  uint32_t segment = 0, block = 0;
  for (lora_run_t run; next_run(step, op, segments, &segment, &block, &run);) {
    const uint32_t panels = panels_of(run.site[SITE_TOTAL_RANK]);
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
          .packed = pack_rows(run.site[SITE_FORMAT], input_row(op, run.row), op[OPERATION_X_STRIDE], run.num_rows,
                              op[OPERATION_K], scratch(step)),
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

static void expand(step_t* step, const uint32_t* op, uint32_t segments) {
  const uint32_t* control = step->control;
  const uint32_t stride = control[CONTROL_SHRINK_STRIDE];
  void* packed = address(control[CONTROL_EXPAND_PACKED] + step->thread * control[CONTROL_EXPAND_PACKED_BYTES]);
  uint32_t item = claim(step, PHASE_EXPAND, 1), first = 0, segment = 0, block = 0;
  for (lora_run_t run; next_run(step, op, segments, &segment, &block, &run);) {
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
        const linear_t product = {
            .format = run.site[SITE_FORMAT],
            .n = width,
            .k = rank,
            .num_rows = run.num_rows,
            .matrix = address(delta[DELTA_B]),
            .packed = pack_rows(run.site[SITE_FORMAT], shrunk, stride, run.num_rows, rank, packed),
            .bias = address(delta[DELTA_BIAS]),
            .y = output_row(op, run.row) + offset,
            .ldy = op[OPERATION_OUT_STRIDE],
            .mode = LINEAR_ADD,
            .scale = float_of(delta[DELTA_SCALE]),
        };
        linear_panels(&product, begin, end, kernel_scratch(step));
        if (delta[DELTA_GAIN]) apply_gain(step, op, &run, delta, begin * PANEL_ROWS, min_u32(end * PANEL_ROWS, width));
      }
    }
    first += items;
  }
}

/* One block of rows. Returns how many queue positions the base matrix has; `*item` is the first that is not its. */
static uint32_t one_block(step_t* step, const uint32_t* op, linear_t* base, uint32_t* item) {
  const uint32_t num_rows = base->num_rows, ldx = op[OPERATION_X_STRIDE];
  if (num_rows == 1) {
    /* Each thread packs the single row for itself: cheaper than meeting at a barrier. */
    base->packed = pack_rows(base->format, input_row(op, 0), ldx, 1, base->k, scratch(step));
  } else {
    /* A tile per claim: eight rows of decode should keep two threads busy. */
    base->packed = address(step->control[CONTROL_PACKED]);
    for (uint32_t tile = claim(step, PHASE_PACK, 1); tile < tiles_of(num_rows); tile = claim(step, PHASE_PACK, 1))
      activation_pack(base->format, (void*)base->packed, input_row(op, 0), ldx, num_rows, base->k, tile, tile + 1);
    barrier(step);
  }
  const uint32_t panels = panels_of(base->n);
  const uint32_t chunk = panels_per_claim(step, panels, base->k, base->format);
  const uint32_t items = (panels + chunk - 1) / chunk;
  for (*item = claim(step, PHASE_PANELS, 1); *item < items; *item = claim(step, PHASE_PANELS, 1))
    linear_panels(base, *item * chunk, min_u32((*item + 1) * chunk, panels), kernel_scratch(step));
  return items;
}

/* The same for several blocks of rows. */
static uint32_t many_blocks(step_t* step, const uint32_t* op, const linear_t* base, uint32_t* item) {
  const uint32_t blocks = (base->num_rows + ROW_BLOCK - 1) / ROW_BLOCK, panels = panels_of(base->n);
  const uint32_t wanted = (CLAIMS_PER_THREAD * step->num_threads + blocks - 1) / blocks;
  const uint32_t parts = max_u32(1, min_u32(wanted, panels / PANELS_PER_PACK)), chunk = (panels + parts - 1) / parts;
  const uint32_t chunks = (panels + chunk - 1) / chunk;
  const void* packed = 0;
  uint32_t packed_block = blocks;
  for (*item = claim(step, PHASE_PANELS, 1); *item < blocks * chunks; *item = claim(step, PHASE_PANELS, 1)) {
    const uint32_t block = *item % blocks, panel = *item / blocks * chunk, row = block * ROW_BLOCK;
    linear_t part = *base;
    part.num_rows = min_u32(base->num_rows - row, ROW_BLOCK);
    part.y = output_row(op, row);
    if (block != packed_block)
      packed = pack_rows(base->format, input_row(op, row), op[OPERATION_X_STRIDE], part.num_rows, base->k, scratch(step));
    packed_block = block;
    part.packed = packed;
    linear_panels(&part, panel, min_u32(panel + chunk, panels), kernel_scratch(step));
  }
  return blocks * chunks;
}

void run_linear(step_t* step, const uint32_t* op) {
  const uint32_t segments = num_segments(step, op);
  linear_t base = {
      .format = op[OPERATION_FORMAT],
      .n = op[OPERATION_N],
      .k = op[OPERATION_K],
      .num_rows = rows_of(step, op),
      .matrix = address(op[OPERATION_WEIGHT]),
      .packed = 0,
      .bias = address(op[OPERATION_BIAS]),
      .y = output_row(op, 0),
      .ldy = op[OPERATION_OUT_STRIDE],
      .mode = op[OPERATION_ACCUMULATE] ? LINEAR_ADD : LINEAR_SET,
      .scale = 1.0f,
  };
  if (segments && op[OPERATION_ACCUMULATE] && hold(step, op, segments)) barrier(step);
  uint32_t item;
  const uint32_t items = base.num_rows <= ROW_BLOCK ? one_block(step, op, &base, &item) : many_blocks(step, op, &base, &item);
  if (segments) {
    shrink(step, op, segments, item, items);
    barrier(step);
    expand(step, op, segments);
  }
  barrier(step);
}
