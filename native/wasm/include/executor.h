/**
 * One step, as every thread of the pool sees it.
 *
 * All threads run the same list of operations side by side. An operation splits its work through atomic
 * queues (`claim`) and ends with a barrier where later operations read what other threads wrote.
 */
#pragma once
#include <stdint.h>

#include "../../step_layout.h"
#include "layout.h"

typedef struct {
  uint32_t* control;
  const int32_t* block;
  uint32_t* counters; /* the current operation's work queues */
  uint32_t thread;
  uint32_t num_threads;
  uint32_t num_rows;
  uint32_t num_sampled;
} step_t;

static inline void* address(uint32_t at) { return (void*)(uintptr_t)at; }
static inline float float_of(uint32_t bits) {
  union { uint32_t bits; float value; } pun = {bits};
  return pun.value;
}
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/** Takes the next `count` items of a queue; the caller stops when the first is past its end. */
static inline uint32_t claim(step_t* step, uint32_t phase, uint32_t count) {
  return __atomic_fetch_add(&step->counters[phase], count, __ATOMIC_RELAXED);
}

/** This thread's private memory. */
static inline void* scratch(const step_t* step) {
  return address(step->control[CONTROL_SCRATCH] + step->thread * step->control[CONTROL_SCRATCH_BYTES]);
}

static inline uint32_t rows_of(const step_t* step, const uint32_t* op) {
  if (op[OPERATION_ROUTED_ROWS]) return step->num_rows * step->control[CONTROL_TOP_K];
  return op[OPERATION_SAMPLED_ROWS] ? step->num_sampled : step->num_rows;
}

/* With one row, every thread does the whole of a cheap, repeatable operation: the same bits are written
   twice, which costs less than a barrier. */
static inline int row_is_shared(const step_t* step, uint32_t num_rows) { return num_rows > 1 && step->num_threads > 1; }

void barrier(step_t* step);

void run_embed(step_t* step, const uint32_t* op);
void run_rms_norm(step_t* step, const uint32_t* op);
void run_linear(step_t* step, const uint32_t* op);
void run_head_norm(step_t* step, const uint32_t* op);
void run_rope_kv_write(step_t* step, const uint32_t* op);
void run_attention(step_t* step, const uint32_t* op);
void run_silu_mul(step_t* step, const uint32_t* op);
void run_gather(step_t* step, const uint32_t* op);
void run_sample(step_t* step, const uint32_t* op);
void run_route(step_t* step, const uint32_t* op);
void run_expert_linear(step_t* step, const uint32_t* op);
void run_combine(step_t* step, const uint32_t* op);
