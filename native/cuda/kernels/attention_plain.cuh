/** Attention for any head width up to 512: one warp, one query head of one row, one position after the other. */
#pragma once
#include "attention_tile.cuh"

namespace lorikeet {

__device__ __forceinline__ void attend_plainly(const AttentionArgs& args, int row, int own, int pages_at, int head) {
  constexpr int DIMS_PER_LANE = 16;
  const int kv = head / (args.num_heads / args.num_kv_heads), lane = threadIdx.x, width = args.head_dim;
  const bf16* q = args.qkv + static_cast<int64_t>(row) * args.qkv_stride + head * width;
  float query[DIMS_PER_LANE], sums[DIMS_PER_LANE];
#pragma unroll
  for (int j = 0; j < DIMS_PER_LANE; j++) {
    query[j] = lane + 32 * j < width ? __bfloat162float(q[lane + 32 * j]) : 0.0f;
    sums[j] = 0.0f;
  }
  float max = -INFINITY, total = 0.0f;
  for (int position = args.window > 0 ? ::max(0, own + 1 - args.window) : 0; position <= own; position++) {
    const bf16* key = args.layer_kv + args.pages[pages_at + position / PAGE_TOKENS] * args.page_stride +
                      (static_cast<int64_t>(kv) * PAGE_TOKENS + position % PAGE_TOKENS) * width;
    const bf16* value = key + static_cast<int64_t>(args.num_kv_heads) * PAGE_TOKENS * width;
    float score = 0.0f;
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++)
      if (lane + 32 * j < width) score += query[j] * __bfloat162float(key[lane + 32 * j]);
    score = warp_sum(score) * args.scale * LOG2E;
    const float seen = fmaxf(max, score), shrink = weight_of(max, seen), weight = exp2f(score - seen);
    max = seen;
    total = total * shrink + weight;
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++)
      if (lane + 32 * j < width) sums[j] = sums[j] * shrink + weight * __bfloat162float(value[lane + 32 * j]);
  }
  bf16* out = args.out + static_cast<int64_t>(row) * args.out_stride + head * width;
#pragma unroll
  for (int j = 0; j < DIMS_PER_LANE; j++)
    if (lane + 32 * j < width) out[lane + 32 * j] = __float2bfloat16(sums[j] / total);
}

}  // namespace lorikeet
