/**
 * Matrix products over panels: the one kernel family behind base weights and LoRA matrices.
 *
 *   y[m, n] = [y[m, n] +] scale * ([bias[n] +] sum_k W[n, k] * x[m, k])
 *
 * Contract that everything above relies on: the bits of y[m, n] depend on row m of x, row n of W and
 * the mode alone. They do not depend on num_rows, on the panel range, or on the thread that asks: every
 * path adds products in the same order (k ascending in float formats; group sums exact in integers, then
 * groups ascending, in int8).
 */
#pragma once
#include <stdint.h>

enum { PANEL_ROWS = 16 };  /* rows of W per panel; a last panel of at most 8 rows is stored with 8 */
enum { INT8_GROUP = 32 };  /* columns that share one scale; K is padded to it with zeros */

enum matrix_format { FORMAT_FLOAT32 = 0, FORMAT_BFLOAT16 = 1, FORMAT_INT8 = 2 };
enum source_dtype { DTYPE_F32 = 0, DTYPE_F16 = 1, DTYPE_BF16 = 2 };
enum linear_mode { LINEAR_SET = 0, LINEAR_ADD = 1 };

/* ---- storage -------------------------------------------------------------------------------- */

/** Bytes of a matrix of n rows and k columns. */
uint32_t matrix_bytes(uint32_t format, uint32_t n, uint32_t k);

/**
 * Converts num_rows row-major source rows [num_rows, k] into rows row0 and on of a matrix of n rows. The
 * matrix was zero-filled before its first row. Returns 0, or 1 + the row of the first non-finite value.
 */
uint32_t panel_pack(uint32_t format, void* matrix, uint32_t n, uint32_t k, uint32_t row0, const void* source,
                    uint32_t source_dtype, uint32_t num_rows);

/** Writes one row of a matrix of n rows as k floats: the embedding lookup. */
void panel_read_row(uint32_t format, const void* matrix, uint32_t n, uint32_t k, uint32_t row, float* out);

/** Writes one column of a matrix of n rows as n floats. Not for int8. */
void panel_read_column(uint32_t format, const void* matrix, uint32_t n, uint32_t k, uint32_t column, float* out);

/* ---- activations ---------------------------------------------------------------------------- */

/** Rows that are packed together; the unit of work of activation_pack. */
enum { ACTIVATION_TILE = 4 };

/** Bytes of num_rows packed activation rows. */
uint32_t activation_bytes(uint32_t format, uint32_t num_rows, uint32_t k);

/** Packs rows [tile0 * 4, min(tile1 * 4, num_rows)) of x (row stride ldx floats); quantises for int8. */
void activation_pack(uint32_t format, void* packed, const float* x, uint32_t ldx, uint32_t num_rows,
                     uint32_t k, uint32_t tile0, uint32_t tile1);

/** The same for rows sources[0], sources[1], ... of x; 0 for rows 0, 1, ... */
void activation_gather(uint32_t format, void* packed, const float* x, uint32_t ldx, const uint32_t* sources, uint32_t num_rows,
                       uint32_t k, uint32_t tile0, uint32_t tile1);

/* ---- product -------------------------------------------------------------------------------- */

/** Bytes of private scratch that linear_panels needs, per thread. */
uint32_t linear_scratch_bytes(void);

typedef struct {
  uint32_t format;
  uint32_t n;          /* rows of W, as it was packed */
  uint32_t k;
  uint32_t num_rows;   /* rows of x, at least 1 */
  const void* matrix;  /* panels, 64-byte aligned */
  const void* packed;  /* activation_pack of all rows */
  const float* bias;   /* [n] or 0 */
  float* y;            /* row stride ldy floats; 16-byte alignment is not promised for odd offsets */
  uint32_t ldy;
  uint32_t mode;       /* linear_mode */
  float scale;         /* applied when mode is LINEAR_ADD; 1 for base weights */
} linear_t;

/** Computes the outputs of panels [panel0, panel1) for all rows. */
void linear_panels(const linear_t* op, uint32_t panel0, uint32_t panel1, void* scratch);
