/** The pool: threads that sleep between steps, run one step side by side, and meet at barriers. */
#include "executor.h"

/* About 25 us: longer than any wait inside a healthy step, short enough to give the core away when a
   thread was preempted. Much shorter spins measured worst of all (both costs). */
enum { SPIN_ROUNDS = 20000 };

static uint32_t load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
static void store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }
static void wake_all(uint32_t* word) { __builtin_wasm_memory_atomic_notify((int*)word, 0xffffffffu); }
static void sleep_while(uint32_t* word, uint32_t value) {
  __builtin_wasm_memory_atomic_wait32((int*)word, (int)value, -1);
}

void barrier(step_t* step) {
  if (step->num_threads == 1) return;
  uint32_t* control = step->control;
  uint32_t* phase = &control[CONTROL_BARRIER_PHASE];
  const uint32_t before = load(phase);
  if (__atomic_add_fetch(&control[CONTROL_BARRIER_ARRIVED], 1, __ATOMIC_SEQ_CST) == step->num_threads) {
    store(&control[CONTROL_BARRIER_ARRIVED], 0);
    store(phase, before + 1);
    if (load(&control[CONTROL_BARRIER_SLEEPERS]) != 0) wake_all(phase);
    return;
  }
  for (uint32_t i = 0; i < SPIN_ROUNDS; i++)
    if (load(phase) != before) return;
  __atomic_add_fetch(&control[CONTROL_BARRIER_SLEEPERS], 1, __ATOMIC_SEQ_CST);
  while (load(phase) == before) sleep_while(phase, before);
  __atomic_sub_fetch(&control[CONTROL_BARRIER_SLEEPERS], 1, __ATOMIC_SEQ_CST);
}

static void run_operation(step_t* step, const uint32_t* op) {
  switch (op[OPERATION_OPCODE]) {
    case OPCODE_EMBED: run_embed(step, op); break;
    case OPCODE_RMS_NORM: run_rms_norm(step, op); break;
    case OPCODE_LINEAR: run_linear(step, op); break;
    case OPCODE_HEAD_NORM: run_head_norm(step, op); break;
    case OPCODE_ROPE_KV_WRITE: run_rope_kv_write(step, op); break;
    case OPCODE_ATTENTION: run_attention(step, op); break;
    case OPCODE_SILU_MUL: run_silu_mul(step, op); break;
    case OPCODE_GATHER: run_gather(step, op); break;
    case OPCODE_SAMPLE: run_sample(step, op); break;
    case OPCODE_ROUTE: run_route(step, op); break;
    case OPCODE_EXPERT_LINEAR: run_expert_linear(step, op); break;
    case OPCODE_COMBINE: run_combine(step, op); break;
    default: __builtin_trap();
  }
}

static void run_step(uint32_t* control, uint32_t thread) {
  step_t step;
  step.control = control;
  step.block = address(control[CONTROL_BLOCK]);
  step.thread = thread;
  step.num_threads = control[CONTROL_NUM_THREADS];
  step.num_rows = (uint32_t)step.block[STEP_HEADER_NUM_ROWS];
  step.num_sampled = (uint32_t)step.block[STEP_HEADER_NUM_SAMPLED];

  const uint32_t* operations = address(control[CONTROL_OPERATIONS]);
  uint32_t* counters = address(control[CONTROL_WORK_COUNTERS]);
  const uint32_t num_operations = control[CONTROL_NUM_OPERATIONS];
  for (uint32_t i = 0; i < num_operations; i++) {
    const uint32_t* op = operations + i * OPERATION_WORDS;
    /* A step of prompt chunks that do not end has nothing to sample. */
    if (op[OPERATION_SAMPLED_ROWS] && step.num_sampled == 0) continue;
    step.counters = counters + i * WORK_COUNTERS;
    run_operation(&step, op);
  }
  if (thread == 0) {
    int32_t* result = address(control[CONTROL_RESULT]);
    result[RESULT_HEADER_VERSION] = ABI_VERSION;
    result[RESULT_HEADER_NUM_SAMPLED] = (int32_t)step.num_sampled;
  }
  barrier(&step);
}

/** Runs steps until told to stop. Every thread calls it once, with its own stack set up before. */
__attribute__((export_name("pool_worker"))) void pool_worker(uint32_t control_at, uint32_t thread) {
  uint32_t* control = address(control_at);
  uint32_t finished = load(&control[CONTROL_DONE]);
  for (;;) {
    while (load(&control[CONTROL_EPOCH]) == finished) sleep_while(&control[CONTROL_EPOCH], finished);
    if (load(&control[CONTROL_STOP])) return;
    run_step(control, thread);
    finished++;
    if (thread == 0) {
      store(&control[CONTROL_DONE], finished);
      wake_all(&control[CONTROL_DONE]);
    }
  }
}
