/** What an adapter has at an operation's site, found by slot or by row: a SITE record, or 0. */
#pragma once
#include "executor.h"

static inline uint32_t num_segments(const step_t* step, const uint32_t* op) {
  return (int32_t)op[OPERATION_SITE] < 0 ? 0 : (uint32_t)step->block[STEP_HEADER_NUM_SEGMENTS];
}

static inline const int32_t* segment_at(const step_t* step, uint32_t index) {
  return step->block + step->block[STEP_HEADER_SEGMENTS_AT] + index * SEGMENT_WORDS;
}

static inline const uint32_t* site_of_slot(const step_t* step, int32_t slot, uint32_t site) {
  const uint32_t* sites = address(step->control[CONTROL_SLOT_SITES]);
  return address(sites[(uint32_t)slot * step->control[CONTROL_NUM_SITES] + site]);
}

/* Rows of the step behind the sampled rows, ascending, SAMPLE_WORDS apart. */
static inline const uint32_t* sampled_rows(const step_t* step) {
  return (const uint32_t*)step->block + step->block[STEP_HEADER_SAMPLES_AT] + SAMPLE_ROW;
}

/** For operations that touch each row on its own. `row` is one of the operation's. */
static inline const uint32_t* site_of_row(const step_t* step, const uint32_t* op, uint32_t row) {
  uint32_t low = 0, high = num_segments(step, op);
  if (high == 0) return 0;
  const int32_t at = (int32_t)(op[OPERATION_SAMPLED_ROWS] ? sampled_rows(step)[row * SAMPLE_WORDS] : row);
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    const int32_t* segment = segment_at(step, middle);
    if (at < segment[SEGMENT_ROW_START]) high = middle;
    else if (at >= segment[SEGMENT_ROW_START] + segment[SEGMENT_NUM_ROWS]) low = middle + 1;
    else return site_of_slot(step, segment[SEGMENT_SLOT], op[OPERATION_SITE]);
  }
  return 0;
}

/* First of n ascending numbers, `stride` words apart, that is not below `value`. */
static inline uint32_t lower_bound(const uint32_t* numbers, uint32_t n, uint32_t stride, uint32_t value) {
  uint32_t low = 0;
  while (low < n) {
    const uint32_t middle = (low + n) / 2;
    if (numbers[middle * stride] < value) low = middle + 1;
    else n = middle;
  }
  return low;
}
