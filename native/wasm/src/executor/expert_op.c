/** Products of each expert with the rows that it was given, and the sum of a row's experts. */
#include <wasm_simd128.h>

#include "executor.h"
#include "product.h"

/* As in linear_op.c: claims per thread so that one that was preempted does not hold up the rest, panels that pay for packing. */
enum { CLAIMS_PER_THREAD = 8, PANELS_PER_PACK = 8 };

static uint32_t blocks_of(uint32_t num_rows) { return (num_rows + ROW_BLOCK - 1) / ROW_BLOCK; }

/*
 * Blocks of rows of each expert; every thread packs the blocks that it takes for itself. Returns how many queue
 * positions there are; `*item` is the first behind them.
 */
static uint32_t grouped_blocks(step_t* step, const uint32_t* op, uint32_t* item) {
  const uint32_t groups = num_groups(step, op), panels = panels_of(op[OPERATION_N]), format = op[OPERATION_FORMAT];
  uint32_t blocks = 0;
  for (uint32_t g = 0; g < groups; g++) blocks += blocks_of(group_of(step, op, g).num_rows);
  const uint32_t wanted = (CLAIMS_PER_THREAD * step->num_threads + blocks - 1) / blocks;
  const uint32_t parts = max_u32(1, min_u32(wanted, panels / PANELS_PER_PACK)), chunk = (panels + parts - 1) / parts;
  const uint32_t chunks = (panels + chunk - 1) / chunk;

  const void* packed = 0;
  uint32_t packed_block = blocks, first_block = 0;
  *item = claim(step, PHASE_PANELS, 1);
  for (uint32_t g = 0; g < groups; g++) {
    const group_t group = group_of(step, op, g);
    const uint32_t group_blocks = blocks_of(group.num_rows);
    /* A matrix that several blocks share is read chunk by chunk. */
    for (; *item < (first_block + group_blocks) * chunks; *item = claim(step, PHASE_PANELS, 1)) {
      const uint32_t within = *item - first_block * chunks, block = within % group_blocks, panel = within / group_blocks * chunk;
      const uint32_t at = block * ROW_BLOCK, num_rows = min_u32(group.num_rows - at, ROW_BLOCK);
      if (first_block + block != packed_block) packed = pack_group(op, format, &group, at, num_rows, scratch(step));
      packed_block = first_block + block;
      const linear_t product = {
          .format = format,
          .n = op[OPERATION_N],
          .k = op[OPERATION_K],
          .num_rows = num_rows,
          .matrix = group.matrix,
          .packed = packed,
          .bias = 0,
          .y = output_row(op, group.row + at),
          .ldy = op[OPERATION_OUT_STRIDE],
          .mode = LINEAR_SET,
          .scale = 1.0f,
      };
      linear_panels(&product, panel, min_u32(panel + chunk, panels), kernel_scratch(step));
    }
    first_block += group_blocks;
  }
  return blocks * chunks;
}

void run_expert_linear(step_t* step, const uint32_t* op) {
  const uint32_t segments = num_segments(step, op);
  uint32_t item;
  const uint32_t items = grouped_blocks(step, op, &item);
  if (segments) {
    shrink(step, op, segments, item, items);
    barrier(step);
    expand(step, op, segments);
  }
  barrier(step);
}

/* out[row] += sum_j share_j * x[place of (row, j)], with j ascending: the bits depend on the row's own experts alone. */
void run_combine(step_t* step, const uint32_t* op) {
  const uint32_t width = op[OPERATION_N], top_k = step->control[CONTROL_TOP_K], chunk = 512;
  const uint32_t chunks = (width + chunk - 1) / chunk;
  const routed_t routed = routed_rows(step);
  for (uint32_t item = claim(step, 0, 1); item < chunks * step->num_rows; item = claim(step, 0, 1)) {
    const uint32_t row = item / chunks, begin = item % chunks * chunk, end = min_u32(begin + chunk, width);
    const uint32_t* places = routed.places + row * top_k;
    const float* shares = (float*)address(op[OPERATION_ROUTES]) + (uintptr_t)row * op[OPERATION_ROUTES_STRIDE] + top_k;
    float* out = output_row(op, row);
    uint32_t i = begin;
    for (; i + 4 <= end; i += 4) {
      v128_t sum = wasm_f32x4_const_splat(0.0f);
      for (uint32_t j = 0; j < top_k; j++)
        sum = wasm_f32x4_add(sum, wasm_f32x4_mul(wasm_f32x4_splat(shares[j]), wasm_v128_load(input_row(op, places[j]) + i)));
      wasm_v128_store(out + i, wasm_f32x4_add(wasm_v128_load(out + i), sum));
    }
    for (; i < end; i++) {
      float sum = 0.0f;
      for (uint32_t j = 0; j < top_k; j++) sum += shares[j] * input_row(op, places[j])[i];
      out[i] += sum;
    }
  }
  barrier(step);
}
