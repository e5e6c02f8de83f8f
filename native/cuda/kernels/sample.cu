/**
 * Picks a token for each sampled row, one block a row.
 *
 *   raw logits > penalties and biases > allowed tokens > temperature > min-p > top-k > top-p > draw
 *
 * Everything reported (log-probability, rank, alternatives) is of the raw distribution. Weights are summed as integers,
 * so that the draw is a pure function of the row's logits, its parameters, its seed and its counter, whatever order the
 * threads add in.
 */
#include "../../step_layout.h"
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int THREADS = 1024, WARPS = THREADS / 32;
/** A weight of 1 as an integer. A vocabulary of 2^20 tokens still sums to less than 2^63. */
constexpr float UNIT = 4398046511104.0f; /* 2^42 */
using Count = unsigned long long;

__device__ __forceinline__ float float_of(int32_t bits) { return __int_as_float(bits); }
__device__ __forceinline__ Count fixed(float weight) { return static_cast<Count>(weight * UNIT); }

/** A value and where it was found; the larger value is better, then the lower index. */
struct Best {
  float value;
  int index;
};
__device__ __forceinline__ bool better(const Best& a, const Best& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

struct Shared {
  Count digits[1024];
  Count counts[WARPS];
  Best bests[WARPS];
  double sums[WARPS];
  int flags[WARPS];
  Count total;
  Best best;
  int chosen;
};

__device__ Best block_best(Best mine, Shared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int offset = 16; offset > 0; offset >>= 1) {
    const Best other = {__shfl_xor_sync(~0u, mine.value, offset), __shfl_xor_sync(~0u, mine.index, offset)};
    if (better(other, mine)) mine = other;
  }
  __syncthreads();
  if (lane == 0) shared.bests[warp] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    Best best = shared.bests[0];
    for (int w = 1; w < WARPS; w++)
      if (better(shared.bests[w], best)) best = shared.bests[w];
    shared.best = best;
  }
  __syncthreads();
  return shared.best;
}

__device__ Count block_count(Count mine, Shared& shared) {
  for (int offset = 16; offset > 0; offset >>= 1) mine += __shfl_xor_sync(~0u, mine, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.counts[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    Count total = 0;
    for (int w = 0; w < WARPS; w++) total += shared.counts[w];
    shared.total = total;
  }
  __syncthreads();
  return shared.total;
}

/** One row's numbers as its parameters make them. */
struct Row {
  const float* logits;
  const uint32_t* allowed; /* a bit for each token, or null when all are */
  int size;
  float max, inverse_temperature, limit; /* weights below the limit count as 0 */

  __device__ __forceinline__ bool allows(int i) const { return allowed == nullptr || (allowed[i / 32] >> (i % 32) & 1u) != 0; }
  __device__ __forceinline__ float weight(int i) const {
    if (!allows(i)) return 0.0f;
    const float weight = expf((logits[i] - max) * inverse_temperature);
    return weight < limit ? 0.0f : weight;
  }
};

/**
 * The largest weight t for which the weights >= t together measure at least `goal`; a weight measures 1 (top-k) or
 * itself (top-p). Weights lie in [0, 1], where floats order like their bits, so t is found digit by digit.
 */
__device__ float threshold(const Row& row, bool by_count, Count goal, Shared& shared) {
  uint32_t prefix = 0, prefix_mask = 0;
  Count above = 0;
  for (int shift = 20; shift >= 0; shift -= 10) {
    for (int i = threadIdx.x; i < 1024; i += THREADS) shared.digits[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < row.size; i += THREADS) {
      const float weight = row.weight(i);
      const uint32_t bits = __float_as_uint(weight);
      if (weight > 0.0f && (bits & prefix_mask) == prefix) atomicAdd(&shared.digits[bits >> shift & 1023u], by_count ? 1ull : fixed(weight));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 1023;
      Count sum = above;
      while (digit > 0 && sum + shared.digits[digit] < goal) sum += shared.digits[digit--];
      shared.chosen = digit;
      shared.total = sum;
    }
    __syncthreads();
    above = shared.total;
    prefix |= static_cast<uint32_t>(shared.chosen) << shift;
    prefix_mask |= 1023u << shift;
    __syncthreads();
  }
  return __uint_as_float(prefix);
}

/** Philox 4x32-10 of (seed, counter) as a double in [0, 1). Source: Salmon et al., SC 2011. */
__device__ double philox_unit(uint32_t seed_low, uint32_t seed_high, uint32_t counter) {
  uint32_t c0 = counter, c1 = 0, c2 = 0, c3 = 0, k0 = seed_low, k1 = seed_high;
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c0 = n0;
    c1 = static_cast<uint32_t>(p1);
    c2 = n2;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (static_cast<double>(c0 >> 5) * 67108864.0 + static_cast<double>(c1 >> 6)) / 9007199254740992.0;
}

__device__ Count total_weight(const Row& row, Shared& shared) {
  Count mine = 0;
  for (int i = threadIdx.x; i < row.size; i += THREADS) mine += fixed(row.weight(i));
  return block_count(mine, shared);
}

/** The first token at which the running sum of weights passes `target`. Each warp owns a run of the vocabulary. */
__device__ int token_at(const Row& row, Count target, Shared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int run = (row.size + WARPS - 1) / WARPS, begin = min(warp * run, row.size), end = min(begin + run, row.size);
  Count mine = 0;
  for (int i = begin + lane; i < end; i += 32) mine += fixed(row.weight(i));
  for (int offset = 16; offset > 0; offset >>= 1) mine += __shfl_xor_sync(~0u, mine, offset);
  __syncthreads();
  if (lane == 0) shared.counts[warp] = mine;
  if (threadIdx.x == 0) shared.chosen = -1;
  __syncthreads();
  Count before = 0;
  for (int w = 0; w < warp; w++) before += shared.counts[w];
  if (mine > 0 && before <= target && target < before + mine) {
    for (int base = begin; base < end; base += 32) {
      const int i = base + lane;
      const Count own = i < end ? fixed(row.weight(i)) : 0;
      Count sum = own;
      for (int offset = 1; offset < 32; offset <<= 1) {
        const Count other = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += other;
      }
      const uint32_t past = __ballot_sync(~0u, own > 0 && before + sum > target);
      if (past != 0) {
        if (lane == 0) shared.chosen = base + __ffs(past) - 1;
        break;
      }
      before += __shfl_sync(~0u, sum, 31);
    }
  }
  __syncthreads();
  return shared.chosen;
}

__device__ int draw(Row& row, const int32_t* sample, int greedy_token, Shared& shared) {
  row.limit = float_of(sample[SAMPLE_MIN_P]);
  const int top_k = sample[SAMPLE_TOP_K];
  if (top_k > 0 && top_k < row.size) row.limit = fmaxf(row.limit, threshold(row, true, static_cast<Count>(top_k), shared));
  const float top_p = float_of(sample[SAMPLE_TOP_P]);
  if (top_p < 1.0f) {
    const Count goal = static_cast<Count>(static_cast<double>(top_p) * static_cast<double>(total_weight(row, shared)));
    row.limit = fmaxf(row.limit, threshold(row, false, goal, shared));
  }
  const Count total = total_weight(row, shared);
  const double unit = philox_unit(static_cast<uint32_t>(sample[SAMPLE_SEED_LOW]), static_cast<uint32_t>(sample[SAMPLE_SEED_HIGH]),
                                  static_cast<uint32_t>(sample[SAMPLE_COUNTER]));
  const Count target = static_cast<Count>(unit * static_cast<double>(total));
  const int token = token_at(row, min(target, total - 1), shared);
  return token < 0 ? greedy_token : token;
}

/** Log-probability, rank and alternatives of the raw distribution. */
__device__ void report(const float* logits, int size, const int32_t* sample, int token, int32_t* result, Shared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Best mine = {-INFINITY, size};
  for (int i = threadIdx.x; i < size; i += THREADS)
    if (better({logits[i], i}, mine)) mine = {logits[i], i};
  const Best top = block_best(mine, shared);

  const float chosen = logits[token];
  double sum = 0.0;
  Count above = 0;
  for (int i = threadIdx.x; i < size; i += THREADS) {
    sum += static_cast<double>(expf(logits[i] - top.value));
    above += logits[i] > chosen ? 1 : 0;
  }
  for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) shared.sums[warp] = sum;
  above = block_count(above, shared);
  double total = 0.0;
  for (int w = 0; w < WARPS; w++) total += shared.sums[w];
  const float log_sum = top.value + static_cast<float>(log(total));
  if (threadIdx.x == 0) {
    result[RESULT_LOGPROB] = __float_as_int(chosen - log_sum);
    result[RESULT_RANK] = static_cast<int32_t>(above) + 1;
  }

  const int wanted = min(sample[SAMPLE_NUM_TOP], min(static_cast<int>(MAX_LOGPROBS), size));
  Best last = top;
  for (int n = 0; n < wanted; n++) {
    if (n > 0) {
      Best next = {-INFINITY, size};
      for (int i = threadIdx.x; i < size; i += THREADS) {
        const Best candidate = {logits[i], i};
        if (better(last, candidate) && better(candidate, next)) next = candidate;
      }
      last = block_best(next, shared);
    }
    if (threadIdx.x == 0) {
      result[RESULT_TOP_TOKENS + n] = last.index;
      result[RESULT_TOP_LOGPROBS + n] = __float_as_int(last.value - log_sum);
    }
  }
  if (threadIdx.x == 0) result[RESULT_NUM_TOP] = wanted;
}

__global__ void __launch_bounds__(THREADS) sample_kernel(SampleArgs args) {
  __shared__ Shared shared;
  begin_behind_previous_kernels();
  const int32_t* sample = args.samples + static_cast<int64_t>(blockIdx.x) * SAMPLE_WORDS;
  if (sample[SAMPLE_ROW] < 0) return;
  int32_t* result = args.results + static_cast<int64_t>(blockIdx.x) * RESULT_WORDS;
  float* logits = args.logits + static_cast<int64_t>(blockIdx.x) * args.stride;
  const int size = args.vocabulary, num_adjustments = sample[SAMPLE_NUM_ADJUSTMENTS];
  int32_t* adjustments = args.changes + static_cast<int64_t>(sample[SAMPLE_ADJUSTMENTS_START]) * ADJUSTMENT_WORDS;
  const int allowed_at = sample[SAMPLE_ALLOWED_AT];
  Row row = {logits, allowed_at < 0 ? nullptr : reinterpret_cast<const uint32_t*>(args.changes + allowed_at), size, 0.0f, 0.0f, 0.0f};

  if (threadIdx.x == 0) {
    /* The next step may read it whatever comes of this row. */
    result[RESULT_TOKEN] = 0;
    result[RESULT_FLAGS] = 0;
    result[RESULT_NUM_TOP] = 0;
    result[RESULT_LOGPROB] = 0;
    result[RESULT_RANK] = 0;
  }
  bool finite = true;
  Best mine = {-INFINITY, size};
  for (int i = threadIdx.x; i < size; i += THREADS) {
    const float value = logits[i];
    finite = finite && isfinite(value);
    if (better({value, i}, mine) && row.allows(i)) mine = {value, i};
  }
  if (__syncthreads_or(!finite)) {
    if (threadIdx.x == 0) result[RESULT_FLAGS] = RESULT_FLAG_NON_FINITE;
    return;
  }
  if (num_adjustments > 0) {
    const float repetition = float_of(sample[SAMPLE_REPETITION_PENALTY]), presence = float_of(sample[SAMPLE_PRESENCE_PENALTY]);
    const float frequency = float_of(sample[SAMPLE_FREQUENCY_PENALTY]);
    /* The host lists a token once. Each original is kept in the record, where `bias` was. */
    for (int i = threadIdx.x; i < num_adjustments; i += THREADS) {
      int32_t* entry = adjustments + i * ADJUSTMENT_WORDS;
      float* logit = logits + entry[ADJUSTMENT_TOKEN];
      const float original = *logit;
      const int count = entry[ADJUSTMENT_GENERATED_COUNT];
      float value = original;
      if (entry[ADJUSTMENT_SEEN]) value = value < 0.0f ? value * repetition : value / repetition;
      if (count > 0) value -= presence + frequency * static_cast<float>(count);
      *logit = value + float_of(entry[ADJUSTMENT_BIAS]);
      entry[ADJUSTMENT_BIAS] = __float_as_int(original);
    }
    __syncthreads();
    mine = {-INFINITY, size};
    for (int i = threadIdx.x; i < size; i += THREADS)
      if (better({logits[i], i}, mine) && row.allows(i)) mine = {logits[i], i};
  }
  const Best best = block_best(mine, shared);
  if (!isfinite(best.value)) { /* every token was forbidden */
    if (threadIdx.x == 0) result[RESULT_FLAGS] = RESULT_FLAG_NON_FINITE;
    return;
  }
  int token = best.index;
  if ((sample[SAMPLE_FLAGS] & SAMPLE_FLAG_GREEDY) == 0) {
    row.max = best.value;
    row.inverse_temperature = 1.0f / float_of(sample[SAMPLE_TEMPERATURE]);
    token = draw(row, sample, best.index, shared);
  }
  if (threadIdx.x == 0) result[RESULT_TOKEN] = token;
  if ((sample[SAMPLE_FLAGS] & SAMPLE_FLAG_LOGPROBS) == 0) return;
  __syncthreads();
  for (int i = threadIdx.x; i < num_adjustments; i += THREADS) {
    const int32_t* entry = adjustments + i * ADJUSTMENT_WORDS;
    logits[entry[ADJUSTMENT_TOKEN]] = float_of(entry[ADJUSTMENT_BIAS]);
  }
  __syncthreads();
  report(logits, size, sample, token, result, shared);
}

}  // namespace

void sample(const SampleArgs& args, Queue queue) {
  launch(sample_kernel, dim3(args.num_sampled), dim3(THREADS), 0, queue, args);
}

}  // namespace lorikeet
