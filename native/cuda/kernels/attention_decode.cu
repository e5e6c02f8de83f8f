/**
 * Attention of rows that come one per sequence: all query heads of a kv head share each key and value loaded.
 *
 * A block takes one stretch of one row's positions; its four warps take sixteen positions of each page, keep sums of
 * their own and merge them at the end. Where a row has several stretches, the block that finishes last adds them up in
 * order, so that no second kernel is needed and the result does not depend on who was last.
 */
#include "attention_plain.cuh"
#include "attention_tile.cuh"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32, HEADS = 16;
static_assert(WARPS * 16 == PAGE_TOKENS, "each warp takes 16 positions of a page");

template <int D> struct Shared {
  static constexpr int STAGES = D <= 128 ? 3 : 2;
  union {
    PageTile<D> stages[STAGES];
    float merged[WARPS][HEADS][D];
  };
  float max[WARPS][HEADS], sum[WARPS][HEADS];
  bool is_last;
};

template <int D> __global__ void __launch_bounds__(THREADS) decode_kernel(AttentionArgs args, const DecodeItem* items) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared<D>& shared = *reinterpret_cast<Shared<D>*>(memory);
  constexpr int STAGES = Shared<D>::STAGES;
  begin_behind_previous_kernels();
  const DecodeItem item = items[blockIdx.x];
  if (item.row < 0) return;
  const int kv = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int group = args.num_heads / args.num_kv_heads, head0 = blockIdx.z * HEADS, heads = min(HEADS, group - head0);
  const int first_visible = args.window > 0 ? max(0, item.position + 1 - args.window) : 0;
  const int begin = max(item.begin, first_visible / PAGE_TOKENS * PAGE_TOKENS);
  const int num_pages = max(0, (item.end - begin + PAGE_TOKENS - 1) / PAGE_TOKENS);

  const int32_t* pages = args.pages + item.pages_at + begin / PAGE_TOKENS;
  /* A page's number is known one step before its copy starts. */
  const auto page_at = [&](int i) { return i < num_pages ? pages[i] : 0; };
  const auto fetch = [&](int i, int page) {
    if (i < num_pages)
      fetch_page<D, THREADS>(shared.stages[i % STAGES], args.layer_kv + page * args.page_stride, kv, args.num_kv_heads,
                             min(PAGE_TOKENS, item.end - begin - i * PAGE_TOKENS));
    copy_async_commit();
  };
  int first_pages[STAGES - 1];
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) first_pages[i] = page_at(i);
  int next_page = page_at(STAGES - 1);
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) fetch(i, first_pages[i]);

  QueryFragment<D> q;
  q.load(args.qkv + static_cast<int64_t>(item.row) * args.qkv_stride + (kv * group + head0) * D, D, heads);
  float sums[D / 8][4];
#pragma unroll
  for (int d = 0; d < D / 8; d++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[d][i] = 0.0f;
  float maxima[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
  const float scale = args.scale * LOG2E;

  for (int i = 0; i < num_pages; i++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    fetch(i + STAGES - 1, next_page);
    next_page = page_at(i + STAGES);
    const PageTile<D>& tile = shared.stages[i % STAGES];
    const int first = begin + i * PAGE_TOKENS + warp * 16;
    if (first >= item.end || first + 16 <= first_visible) continue;
    float scores[2][4];
    score_16<D>(q, tile, warp * 16, scores);
    float seen[2] = {maxima[0], maxima[1]};
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int position = first + j * 8 + t * 2 + e % 2;
        const bool visible = position >= first_visible && position < item.end;
        scores[j][e] = visible ? scores[j][e] * scale : -INFINITY;
        seen[e / 2] = fmaxf(seen[e / 2], scores[j][e]);
      }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      seen[r] = quad_max(seen[r]);
      const float shrink = weight_of(maxima[r], seen[r]);
      maxima[r] = seen[r];
      totals[r] *= shrink;
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        sums[d][2 * r] *= shrink;
        sums[d][2 * r + 1] *= shrink;
      }
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        scores[j][e] = weight_of(scores[j][e], maxima[e / 2]);
        totals[e / 2] += scores[j][e];
      }
    gather_16<D>(scores, tile, warp * 16, sums);
  }
  copy_async_wait<0>();
  __syncthreads();

  /* The warps' sums become one: they lie in the memory that held the pages. */
#pragma unroll
  for (int r = 0; r < 2; r++) {
    totals[r] = quad_sum(totals[r]);
    const int head = g + r * 8;
    if (t == 0) {
      shared.max[warp][head] = maxima[r];
      shared.sum[warp][head] = totals[r];
    }
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
      shared.merged[warp][head][d * 8 + t * 2] = sums[d][2 * r];
      shared.merged[warp][head][d * 8 + t * 2 + 1] = sums[d][2 * r + 1];
    }
  }
  __syncthreads();
  const int width = D + 2; /* sums, then max and total */
  float* partial = args.partial + ((static_cast<int64_t>(blockIdx.x) * args.num_kv_heads + kv) * group + head0) * width;
  bf16* out = args.out + static_cast<int64_t>(item.row) * args.out_stride + (kv * group + head0) * D;
  for (int i = threadIdx.x; i < heads * D; i += THREADS) {
    const int head = i / D, d = i % D;
    float max = shared.max[0][head];
#pragma unroll
    for (int w = 1; w < WARPS; w++) max = fmaxf(max, shared.max[w][head]);
    float sum = 0.0f, total = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float weight = weight_of(shared.max[w][head], max);
      sum += weight * shared.merged[w][head][d];
      total += weight * shared.sum[w][head];
    }
    if (item.num_splits == 1) {
      out[i] = __float2bfloat16(sum / total);
    } else {
      partial[head * width + d] = sum;
      if (d == 0) {
        partial[head * width + D] = max;
        partial[head * width + D + 1] = total;
      }
    }
  }
  if (item.num_splits == 1) return;

  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* counter = args.arrived + (static_cast<int64_t>(item.row) * args.num_kv_heads + kv) * gridDim.z + blockIdx.z;
    /* Wraps to zero with the last arrival, ready for the next layer. */
    shared.is_last = atomicInc(counter, item.num_splits - 1) == static_cast<uint32_t>(item.num_splits - 1);
  }
  __syncthreads();
  if (!shared.is_last) return;
  __threadfence();
  /* The parts' maxima and totals come into shared memory at once, then every sum is a run of independent loads. */
  const int64_t split_stride = static_cast<int64_t>(args.num_kv_heads) * group * width;
  const float* first_split = partial - item.split * split_stride;
  float* weights = reinterpret_cast<float*>(memory); /* [heads][num_splits], then as many totals */
  float* part_totals = weights + heads * item.num_splits;
  for (int i = threadIdx.x; i < heads * item.num_splits; i += THREADS) {
    const float* at = first_split + (i % item.num_splits) * split_stride + i / item.num_splits * width;
    weights[i] = __ldcg(at + D);
    part_totals[i] = __ldcg(at + D + 1);
  }
  __syncthreads();
  if (threadIdx.x < heads) {
    float* own = weights + threadIdx.x * item.num_splits;
    float max = -INFINITY, total = 0.0f;
    for (int s = 0; s < item.num_splits; s++) max = fmaxf(max, own[s]);
    for (int s = 0; s < item.num_splits; s++) {
      own[s] = weight_of(own[s], max);
      total += own[s] * part_totals[threadIdx.x * item.num_splits + s];
    }
    shared.sum[0][threadIdx.x] = 1.0f / total;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * D; i += THREADS) {
    const int head = i / D;
    const float* at = first_split + head * width + i % D;
    float sum = 0.0f;
#pragma unroll 8
    for (int s = 0; s < item.num_splits; s++) sum += weights[head * item.num_splits + s] * __ldcg(at + s * split_stride);
    out[i] = __float2bfloat16(sum * shared.sum[0][head]);
  }
}

__global__ void decode_plain_kernel(AttentionArgs args, const DecodeItem* items) {
  begin_behind_previous_kernels();
  const DecodeItem item = items[blockIdx.x];
  /* The first stretch does the whole row. */
  if (item.row >= 0 && item.split == 0) attend_plainly(args, item.row, item.position, item.pages_at, blockIdx.y);
}

template <int D> void decode_fast(const AttentionArgs& args, const DecodeItem* items, int num_items, Queue queue) {
  static const bool allowed = (allow_shared_bytes(decode_kernel<D>, sizeof(Shared<D>)), true);
  (void)allowed;
  const int group = args.num_heads / args.num_kv_heads;
  launch(decode_kernel<D>, dim3(num_items, args.num_kv_heads, (group + HEADS - 1) / HEADS), dim3(THREADS), sizeof(Shared<D>), queue, args, items);
}

}  // namespace

size_t decode_partial_bytes(int num_items, int num_heads, int head_dim) {
  return static_cast<size_t>(num_items) * num_heads * (head_dim + 2) * sizeof(float);
}

void decode_attention(const AttentionArgs& args, const DecodeItem* items, int num_items, Queue queue) {
  switch (args.head_dim) {
    case 64: return decode_fast<64>(args, items, num_items, queue);
    case 96: return decode_fast<96>(args, items, num_items, queue);
    case 128: return decode_fast<128>(args, items, num_items, queue);
    case 256: return decode_fast<256>(args, items, num_items, queue);
    default: launch(decode_plain_kernel, dim3(num_items, args.num_heads), dim3(32), 0, queue, args, items);
  }
}

}  // namespace lorikeet
