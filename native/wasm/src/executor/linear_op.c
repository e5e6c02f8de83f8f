/**
 * A linear operation: base weights for all rows, and each adapter's A and B for its own run of rows (lora_op.c).
 *
 *   base panels and shrink (A·x)  |  replaced rows, expand (out += scale * B·(A·x)) and trained biases
 *
 * `|` is a barrier. Rows without an adapter take no part in shrink and expand, and a step without any has neither.
 * Rows are packed in blocks of up to ROW_BLOCK. The rows of a decode step are one block, which the threads pack
 * together, with another barrier before the base panels. Of many rows, every thread takes blocks and packs them for
 * itself: they stay in its own cache, at four times the size of the numbers in them.
 */
#include "product.h"

/* Claims per thread when there are several blocks of rows: one that was preempted does not hold up the rest. */
enum { CLAIMS_PER_THREAD = 4 };
/* Panels per claim that pay for packing a block of rows. */
enum { PANELS_PER_PACK = 8 };

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

/* One block of rows. Returns how many queue positions the base matrix has; `*item` is the first that is not its. */
static uint32_t one_block(step_t* step, const uint32_t* op, linear_t* base, uint32_t* item) {
  const uint32_t num_rows = base->num_rows, ldx = op[OPERATION_X_STRIDE];
  if (num_rows == 1) {
    /* Each thread packs the single row for itself: cheaper than meeting at a barrier. */
    base->packed = pack_rows(base->format, input_row(op, 0), ldx, 0, 1, base->k, scratch(step));
  } else {
    /* A tile per claim: eight rows of decode should keep two threads busy. */
    base->packed = address(step->control[CONTROL_PACKED]);
    for (uint32_t tile = claim(step, PHASE_PACK, 1); tile < row_tiles(num_rows); tile = claim(step, PHASE_PACK, 1))
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
      packed = pack_rows(base->format, input_row(op, row), op[OPERATION_X_STRIDE], 0, part.num_rows, base->k, scratch(step));
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
  uint32_t item, items = 0;
  if (segments && replaces_all(step, op, segments)) item = claim(step, PHASE_PANELS, 1);
  else items = base.num_rows <= ROW_BLOCK ? one_block(step, op, &base, &item) : many_blocks(step, op, &base, &item);
  if (segments) {
    shrink(step, op, segments, item, items);
    barrier(step);
    expand(step, op, segments);
  }
  barrier(step);
}
