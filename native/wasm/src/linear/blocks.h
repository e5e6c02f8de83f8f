/**
 * The order in which a product with several rows is computed:
 *
 *   for each batch of panels         which are read into the cache in one go
 *     for each panel, or all of them
 *       for each strip of rows
 *         for each block of columns
 *           for each panel           a part, by the format's own kernels
 *
 * A few rows are one strip, of which a block of activations stays in the first-level cache while the panels of a batch
 * pass. With many rows it is the panel that stays. Columns ascend for every output, and its bits depend on nothing else.
 */
#pragma once
#include "panels.h"

enum { FEW_ROWS = 2 * ACTIVATION_TILE, STRIP_ROWS = 8 * ACTIVATION_TILE };
enum { MIN_BATCH = 2, MAX_BATCH = 16 };
/** Sums of a strip and the panels that pass: v128_t[panels][rows][4]. */
enum { SUMS_BYTES = MAX_BATCH * FEW_ROWS * PANEL_ROWS * 4 };
_Static_assert(SUMS_BYTES >= STRIP_ROWS * PANEL_ROWS * 4, "sums of one panel and a strip of many rows");

/** Columns of a block, a multiple of INT8_GROUP: for one tile of rows, for a few rows, for many. */
typedef struct { uint32_t one_tile, few_rows, many_rows; } block_columns_t;

/** A block of columns of one panel and one strip. */
typedef struct {
  const uint8_t* w;
  const uint8_t* x;     /* the strip's first tile; the others are tile_bytes apart */
  uint32_t tile_bytes;
  uint32_t width;       /* rows that the panel is stored with */
  uint32_t rows;        /* of the strip */
  uint32_t columns;
  v128_t* sums;
} part_t;

static inline uint32_t at_most(uint32_t most, uint32_t count) { return count < most ? count : most; }

/*
 * With a few rows a panel takes longer to compute than to read, and reads between the arithmetic are too far
 * apart for the hardware to prefetch. One panel at a time measured 1.2 times the speed from memory, this
 * another 1.07 where panels are short.
 */
enum { FETCH_BYTES = 32 << 10 };
static inline void fetch(const uint8_t* at, const uint8_t* end) {
  v128_t seen = wasm_i32x4_const_splat(0);
  for (; at < end; at += 64) seen = wasm_v128_or(seen, wasm_v128_load(at));
  /* Without a use the reads would be removed. */
  __asm__ volatile("" : : "r"(wasm_i32x4_extract_lane(seen, 0)));
}

static inline uint32_t columns_per_block(uint32_t num_rows, block_columns_t columns) {
  return num_rows <= ACTIVATION_TILE ? columns.one_tile : num_rows <= FEW_ROWS ? columns.few_rows : columns.many_rows;
}

/** `run` adds a part to its sums; it is inlined here. `sums` has SUMS_BYTES. */
static inline __attribute__((always_inline)) void many_rows(const linear_t* op, uint32_t panel0, uint32_t panel1,
                                                            block_columns_t columns, void (*run)(const linear_t*, const part_t*, void*),
                                                            v128_t* sums, void* scratch) {
  const uint32_t format = op->format, k = op->k, block = columns_per_block(op->num_rows, columns);
  const uint32_t panel_bytes = stored_bytes(format, PANEL_ROWS, k), tile_bytes = activation_bytes(format, ACTIVATION_TILE, k);
  const uint32_t fetched = FETCH_BYTES / panel_bytes + 1, batch = at_most(MAX_BATCH, fetched < MIN_BATCH ? MIN_BATCH : fetched);
  const uint32_t passing = op->num_rows <= FEW_ROWS ? batch : 1;
  for (uint32_t first = panel0, fetched_to = panel0; first < panel1; first += passing) {
    const uint32_t last = first + at_most(panel1 - first, passing);
    const uint8_t* matrix = (const uint8_t*)op->matrix + (uintptr_t)first * panel_bytes;
    if (first == fetched_to) {
      fetched_to += at_most(panel1 - first, batch);
      const uint32_t last_width = panel_width((fetched_to - 1) * PANEL_ROWS, op->n);
      fetch(matrix, matrix + (fetched_to - 1 - first) * panel_bytes + stored_bytes(format, last_width, k));
    }
    for (uint32_t row = 0; row < op->num_rows; row += STRIP_ROWS) {
      const uint32_t rows = at_most(op->num_rows - row, STRIP_ROWS), panel_sums = tiles_of(rows) * ACTIVATION_TILE * PANEL_ROWS / 4;
      const uint8_t* x = (const uint8_t*)op->packed + (uintptr_t)(row / ACTIVATION_TILE) * tile_bytes;
      for (uint32_t i = 0; i < (last - first) * panel_sums; i++) sums[i] = wasm_f32x4_const_splat(0.0f);
      for (uint32_t column = 0; column < k; column += block) {
        for (uint32_t panel = first; panel < last; panel++) {
          const uint32_t width = panel_width(panel * PANEL_ROWS, op->n);
          const part_t part = {
              .w = matrix + (panel - first) * panel_bytes + stored_bytes(format, width, column),
              .x = x + activation_bytes(format, ACTIVATION_TILE, column),
              .tile_bytes = tile_bytes,
              .width = width,
              .rows = rows,
              .columns = at_most(k - column, block),
              .sums = sums + (panel - first) * panel_sums,
          };
          run(op, &part, scratch);
        }
      }
      for (uint32_t panel = first; panel < last; panel++) {
        const v128_t* from = sums + (panel - first) * panel_sums;
        const uint32_t n = panel * PANEL_ROWS;
        for (uint32_t r = 0; r < rows; r++, from += 4) {
          store_outputs(op, row + r, n, from[0], from[1]);
          if (n + HALF_ROWS < op->n) store_outputs(op, row + r, n + HALF_ROWS, from[2], from[3]);
        }
      }
    }
  }
}
