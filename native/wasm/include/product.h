/**
 * What the operations that multiply have in common: rows in, rows out, and packing.
 *
 * Such an operation has groups of rows, each with a matrix and a site of its own: one group for a linear operation,
 * one per expert where a router gave each row its experts. Rows of a group lie together in the output.
 */
#pragma once
#include "executor.h"
#include "linear.h"
#include "site.h"

enum { PHASE_PACK = 0, PHASE_PANELS = 1, PHASE_EXPAND = 2, PHASE_HOLD = 3 };

typedef struct {
  const void* matrix;
  uint32_t site;           /* index, or -1 */
  uint32_t row, num_rows;  /* in the output */
  const uint32_t* rows;    /* rows of the step that they belong to, ascending; 0 when they are the step's own */
  uint32_t stride;         /* words from one of these to the next */
} group_t;

/* Written by the route operation. */
typedef struct {
  uint32_t* starts;  /* [experts + 1]: an expert's first routed row */
  uint32_t* sources; /* [routed rows]: the row of the step */
  uint32_t* places;  /* [rows of the step][top_k]: the routed row */
} routed_t;

static inline routed_t routed_rows(const step_t* step) {
  uint32_t* starts = address(step->control[CONTROL_GROUPS]);
  uint32_t* sources = starts + step->control[CONTROL_NUM_EXPERTS] + 1;
  return (routed_t){starts, sources, sources + step->num_rows * step->control[CONTROL_TOP_K]};
}

static inline uint32_t num_groups(const step_t* step, const uint32_t* op) {
  return op[OPERATION_OPCODE] == OPCODE_EXPERT_LINEAR ? step->control[CONTROL_NUM_EXPERTS] : 1;
}

static inline group_t group_of(const step_t* step, const uint32_t* op, uint32_t index) {
  if (op[OPERATION_OPCODE] != OPCODE_EXPERT_LINEAR)
    return (group_t){address(op[OPERATION_WEIGHT]), op[OPERATION_SITE], 0, rows_of(step, op),
                     op[OPERATION_SAMPLED_ROWS] ? sampled_rows(step) : 0, SAMPLE_WORDS};
  const routed_t routed = routed_rows(step);
  const uint32_t row = routed.starts[index];
  return (group_t){
      .matrix = address(op[OPERATION_WEIGHT] + index * op[OPERATION_MATRIX_BYTES]),
      .site = op[OPERATION_SITE] + index,
      .row = row,
      .num_rows = routed.starts[index + 1] - row,
      .rows = routed.sources + row,
      .stride = 1,
  };
}

static inline uint32_t row_tiles(uint32_t num_rows) { return (num_rows + ACTIVATION_TILE - 1) / ACTIVATION_TILE; }
static inline uint32_t panels_of(uint32_t n) { return (n + PANEL_ROWS - 1) / PANEL_ROWS; }

static inline const float* input_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_X]) + (uintptr_t)row * op[OPERATION_X_STRIDE];
}
static inline float* output_row(const uint32_t* op, uint32_t row) {
  return (float*)address(op[OPERATION_OUT]) + (uintptr_t)row * op[OPERATION_OUT_STRIDE];
}

/* Kernels' own memory; in front of it is room for a packed block of rows. */
static inline void* kernel_scratch(const step_t* step) {
  return (uint8_t*)scratch(step) + step->control[CONTROL_PACKED_BLOCK_BYTES];
}

/* Packs rows for this thread alone. A single row of floats is its own packed form. */
static inline const void* pack_rows(uint32_t format, const float* x, uint32_t ldx, const uint32_t* sources, uint32_t num_rows,
                                    uint32_t k, void* memory) {
  if (num_rows == 1 && format != FORMAT_INT8) return x + (sources ? (uintptr_t)sources[0] * ldx : 0);
  activation_gather(format, memory, x, ldx, sources, num_rows, k, 0, row_tiles(num_rows));
  return memory;
}

/* Packs rows [at, at + num_rows) of a group: as they lie in x, or looked up there. */
static inline const void* pack_group(const uint32_t* op, uint32_t format, const group_t* group, uint32_t at, uint32_t num_rows,
                                     void* memory) {
  const int gathered = (int)op[OPERATION_GATHERED];
  return pack_rows(format, input_row(op, gathered ? 0 : group->row + at), op[OPERATION_X_STRIDE], gathered ? group->rows + at : 0,
                   num_rows, op[OPERATION_K], memory);
}

/* Adapters: lora_op.c and replace_op.c. */

/* Rows of one slot in one group, at most a block of them. */
typedef struct {
  const uint32_t* site; /* SITE record */
  group_t group;
  uint32_t at; /* first row within the group */
  uint32_t row, num_rows;
} run_t;

typedef struct { uint32_t group, segment, block; } cursor_t;

/** Steps through the blocks of all segments in all groups. Returns 0 behind the last. */
int next_run(const step_t* step, const uint32_t* op, uint32_t segments, cursor_t* cursor, run_t* run);

/* What out held before this operation, for sites that need it again: [rows][n] of the operation. */
static inline float* held_row(const step_t* step, const uint32_t* op, uint32_t row) {
  return (float*)address(step->control[CONTROL_HELD]) + (uintptr_t)row * op[OPERATION_N];
}

/* Panels of outputs [offset, offset + width) that lie in [begin, end), counted from the offset. Returns 0 for none. */
static inline int panels_within(uint32_t offset, uint32_t width, uint32_t begin, uint32_t end, uint32_t* first, uint32_t* last) {
  if (offset >= end || offset + width <= begin) return 0;
  *first = begin <= offset ? 0 : panels_of(begin - offset);
  *last = min_u32(panels_of(end - offset), panels_of(width));
  return *first < *last;
}

/** Keeps aside what rows held before an operation adds to them, where it is needed again. Returns whether it is, the same for every thread. */
int hold(step_t* step, const uint32_t* op, uint32_t segments);
/** A·x of every run of rows; queue positions before `first` belong to the base matrix, `item` is the first that is not its. */
void shrink(step_t* step, const uint32_t* op, uint32_t segments, uint32_t item, uint32_t first);
/** Replaced outputs, then out += scale * B·(A·x), then trained biases. */
void expand(step_t* step, const uint32_t* op, uint32_t segments);

/** Whether every row of the operation has the whole matrix replaced. */
int replaces_all(const step_t* step, const uint32_t* op, uint32_t segments);
/** Writes those of outputs [begin, end) of a run that the adapter has rows of its own for. */
void replace(step_t* step, const uint32_t* op, const run_t* run, uint32_t begin, uint32_t end);
/** Adds what a trained bias differs from the base's by. */
void shift(const uint32_t* op, const run_t* run, uint32_t begin, uint32_t end);
