/**
 * Picks a token for each sampled row.
 *
 *   raw logits > penalties and biases > temperature > min-p > top-k > top-p > draw
 *
 * Everything reported (log-probability, rank, alternatives) is of the raw distribution. The draw is a pure
 * function of the row's logits, its parameters, its seed and its counter.
 */
#include <wasm_simd128.h>

#include "executor.h"
#include "philox.h"
#include "vector_math.h"

typedef struct {
  float* logits;
  uint32_t size;
  const int32_t* sample; /* SAMPLE record */
  int32_t* adjustments;  /* ADJUSTMENT records of this row */
  const uint32_t* allowed; /* one bit per token, or null when all may be picked */
  float* weights;        /* private, one float per token, padded to four */
} row_t;

static float parameter(const row_t* row, uint32_t field) { return float_of((uint32_t)row->sample[field]); }

static int all_finite(const float* x, uint32_t size) {
  v128_t sum = wasm_f32x4_const_splat(0.0f);
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) {
    const v128_t v = wasm_v128_load(x + i);
    sum = wasm_f32x4_add(sum, wasm_f32x4_sub(v, v)); /* 0, or NaN for an infinity or NaN */
  }
  float rest = horizontal_sum(sum);
  for (; i < size; i++) rest += x[i] - x[i];
  return rest == 0.0f;
}

static float largest(const float* x, uint32_t size) {
  v128_t best = wasm_f32x4_splat(-__builtin_inff());
  uint32_t i = 0;
  for (; i + 4 <= size; i += 4) best = wasm_f32x4_pmax(best, wasm_v128_load(x + i));
  float result = horizontal_max(best);
  for (; i < size; i++) result = x[i] > result ? x[i] : result;
  return result;
}

static int is_allowed(const row_t* row, uint32_t token) { return row->allowed[token >> 5] >> (token & 31) & 1; }

/* Walks the bits rather than the tokens: a grammar often allows a handful. */
static uint32_t best_allowed(const row_t* row) {
  uint32_t best = row->size;
  for (uint32_t word = 0; word * 32 < row->size; word++)
    for (uint32_t bits = row->allowed[word]; bits != 0; bits &= bits - 1) {
      const uint32_t token = word * 32 + (uint32_t)__builtin_ctz(bits);
      if (token < row->size && (best == row->size || row->logits[token] > row->logits[best])) best = token;
    }
  return best;
}

static uint32_t first_index_of(const float* x, uint32_t size, float value) {
  for (uint32_t i = 0; i < size; i++)
    if (x[i] == value) return i;
  return size;
}

/* Changes the logits of listed tokens and keeps each original in the record, where `bias` was. */
static void adjust(const row_t* row) {
  const float repetition = parameter(row, SAMPLE_REPETITION_PENALTY);
  const float presence = parameter(row, SAMPLE_PRESENCE_PENALTY);
  const float frequency = parameter(row, SAMPLE_FREQUENCY_PENALTY);
  for (int32_t i = 0; i < row->sample[SAMPLE_NUM_ADJUSTMENTS]; i++) {
    int32_t* entry = row->adjustments + i * ADJUSTMENT_WORDS;
    float* logit = &row->logits[entry[ADJUSTMENT_TOKEN]];
    const float original = *logit, bias = float_of((uint32_t)entry[ADJUSTMENT_BIAS]);
    const int32_t count = entry[ADJUSTMENT_GENERATED_COUNT];
    float value = original;
    if (entry[ADJUSTMENT_SEEN]) value = value < 0.0f ? value * repetition : value / repetition;
    if (count > 0) value -= presence + frequency * (float)count;
    *logit = value + bias;
    __builtin_memcpy(&entry[ADJUSTMENT_BIAS], &original, sizeof original);
  }
}

/* Backwards, so that a token listed twice gets its first original. */
static void restore(const row_t* row) {
  for (int32_t i = row->sample[SAMPLE_NUM_ADJUSTMENTS] - 1; i >= 0; i--) {
    const int32_t* entry = row->adjustments + i * ADJUSTMENT_WORDS;
    row->logits[entry[ADJUSTMENT_TOKEN]] = float_of((uint32_t)entry[ADJUSTMENT_BIAS]);
  }
}

static uint32_t bits_of(float value) {
  union { float value; uint32_t bits; } pun = {value};
  return pun.bits;
}

/*
 * The largest weight t for which the weights >= t together measure at least `goal`; a weight measures 1
 * (top-k) or itself (top-p). Weights lie in [0, 1], where floats order like their bits, so t is found
 * digit by digit with histograms instead of a sort.
 */
static float threshold(const row_t* row, int by_count, double goal) {
  enum { DIGIT_BITS = 10, DIGITS = 1 << DIGIT_BITS };
  double measure[DIGITS];
  uint32_t prefix = 0, prefix_mask = 0;
  double above = 0.0;
  for (int shift = 20; shift >= 0; shift -= DIGIT_BITS) {
    for (uint32_t i = 0; i < DIGITS; i++) measure[i] = 0.0;
    for (uint32_t i = 0; i < row->size; i++) {
      const float weight = row->weights[i];
      const uint32_t bits = bits_of(weight);
      if (weight > 0.0f && (bits & prefix_mask) == prefix) measure[bits >> shift & (DIGITS - 1)] += by_count ? 1.0 : (double)weight;
    }
    uint32_t digit = DIGITS - 1;
    while (digit > 0 && above + measure[digit] < goal) above += measure[digit--];
    prefix |= digit << shift;
    prefix_mask |= (uint32_t)(DIGITS - 1) << shift;
  }
  return float_of(prefix);
}

static void drop_below(const row_t* row, float limit) {
  for (uint32_t i = 0; i < row->size; i++)
    if (row->weights[i] < limit) row->weights[i] = 0.0f;
}

static double total_weight(const row_t* row) {
  double total = 0.0;
  for (uint32_t i = 0; i < row->size; i++) total += (double)row->weights[i];
  return total;
}

static uint32_t draw(const row_t* row, float max) {
  const v128_t offset = wasm_f32x4_splat(max), inverse = wasm_f32x4_splat(1.0f / parameter(row, SAMPLE_TEMPERATURE));
  uint32_t i = 0;
  for (; i + 4 <= row->size; i += 4) {
    const v128_t x = wasm_f32x4_mul(wasm_f32x4_sub(wasm_v128_load(row->logits + i), offset), inverse);
    wasm_v128_store(row->weights + i, exp_f32x4(x));
  }
  for (; i < row->size; i++) row->weights[i] = exp_f32((row->logits[i] - max) * wasm_f32x4_extract_lane(inverse, 0));

  if (row->allowed)
    for (i = 0; i < row->size; i++)
      if (!is_allowed(row, i)) row->weights[i] = 0.0f;

  const float min_p = parameter(row, SAMPLE_MIN_P), top_p = parameter(row, SAMPLE_TOP_P);
  const int32_t top_k = row->sample[SAMPLE_TOP_K];
  if (min_p > 0.0f) drop_below(row, min_p);
  if (top_k > 0 && (uint32_t)top_k < row->size) drop_below(row, threshold(row, 1, (double)top_k));
  if (top_p < 1.0f) drop_below(row, threshold(row, 0, (double)top_p * total_weight(row)));

  const double target =
      philox_unit((uint32_t)row->sample[SAMPLE_SEED_LOW], (uint32_t)row->sample[SAMPLE_SEED_HIGH], (uint32_t)row->sample[SAMPLE_COUNTER]) *
      total_weight(row);
  double sum = 0.0;
  uint32_t last = 0;
  for (i = 0; i < row->size; i++) {
    if (row->weights[i] == 0.0f) continue;
    sum += (double)row->weights[i];
    last = i;
    if (sum > target) break;
  }
  return last;
}

/* Log-probability, rank and alternatives of the raw distribution. */
static void report(const row_t* row, uint32_t token, int32_t* result) {
  const float max = largest(row->logits, row->size), chosen = row->logits[token];
  const v128_t offset = wasm_f32x4_splat(max);
  double sum = 0.0;
  uint32_t rank = 1, i = 0;
  for (; i + 4 <= row->size; i += 4) {
    const v128_t e = exp_f32x4(wasm_f32x4_sub(wasm_v128_load(row->logits + i), offset));
    sum += (double)horizontal_sum(e);
  }
  for (; i < row->size; i++) sum += (double)exp_f32(row->logits[i] - max);
  for (i = 0; i < row->size; i++) rank += row->logits[i] > chosen;
  const float log_sum = max + (float)__builtin_log(sum);

  float* floats = (float*)result;
  floats[RESULT_LOGPROB] = chosen - log_sum;
  result[RESULT_RANK] = (int32_t)rank;

  const uint32_t wanted = min_u32((uint32_t)row->sample[SAMPLE_NUM_TOP], min_u32(MAX_LOGPROBS, row->size));
  uint32_t found = 0;
  for (i = 0; wanted > 0 && i < row->size; i++) {
    const float value = row->logits[i];
    if (found == wanted && value <= floats[RESULT_TOP_LOGPROBS + found - 1]) continue;
    uint32_t at = found < wanted ? found++ : found - 1;
    for (; at > 0 && floats[RESULT_TOP_LOGPROBS + at - 1] < value; at--) {
      floats[RESULT_TOP_LOGPROBS + at] = floats[RESULT_TOP_LOGPROBS + at - 1];
      result[RESULT_TOP_TOKENS + at] = result[RESULT_TOP_TOKENS + at - 1];
    }
    floats[RESULT_TOP_LOGPROBS + at] = value;
    result[RESULT_TOP_TOKENS + at] = (int32_t)i;
  }
  for (i = 0; i < found; i++) floats[RESULT_TOP_LOGPROBS + i] -= log_sum;
  result[RESULT_NUM_TOP] = (int32_t)found;
}

static void sample_row(const row_t* row, int32_t* result) {
  result[RESULT_FLAGS] = 0;
  result[RESULT_NUM_TOP] = 0;
  ((float*)result)[RESULT_LOGPROB] = 0.0f;
  result[RESULT_RANK] = 0;
  if (!all_finite(row->logits, row->size)) {
    result[RESULT_FLAGS] = RESULT_FLAG_NON_FINITE;
    return;
  }
  adjust(row);
  const uint32_t best = row->allowed ? best_allowed(row) : row->size;
  const float max = !row->allowed ? largest(row->logits, row->size) : best < row->size ? row->logits[best] : -__builtin_inff();
  if (max - max != 0.0f) { /* every token was forbidden */
    result[RESULT_FLAGS] = RESULT_FLAG_NON_FINITE;
    return;
  }
  const int32_t flags = row->sample[SAMPLE_FLAGS];
  const uint32_t token = flags & SAMPLE_FLAG_GREEDY ? (row->allowed ? best : first_index_of(row->logits, row->size, max)) : draw(row, max);
  result[RESULT_TOKEN] = (int32_t)token;
  if (flags & SAMPLE_FLAG_LOGPROBS) {
    restore(row);
    report(row, token, result);
  }
}

void run_sample(step_t* step, const uint32_t* op) {
  int32_t* block = (int32_t*)step->block;
  int32_t* result = address(step->control[CONTROL_RESULT]);
  for (uint32_t i = claim(step, 0, 1); i < step->num_sampled; i = claim(step, 0, 1)) {
    const int32_t* sample = block + block[STEP_HEADER_SAMPLES_AT] + (int32_t)(i * SAMPLE_WORDS);
    const row_t row = {
        .logits = (float*)address(op[OPERATION_X]) + (uintptr_t)i * op[OPERATION_X_STRIDE],
        .size = op[OPERATION_N],
        .sample = sample,
        .adjustments = block + block[STEP_HEADER_ADJUSTMENTS_AT] + sample[SAMPLE_ADJUSTMENTS_START] * ADJUSTMENT_WORDS,
        .allowed = sample[SAMPLE_ALLOWED_AT] ? (const uint32_t*)block + sample[SAMPLE_ALLOWED_AT] : 0,
        .weights = scratch(step),
    };
    sample_row(&row, result + RESULT_HEADER_WORDS + i * RESULT_WORDS);
  }
  barrier(step);
}
