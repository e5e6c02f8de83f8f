/**
 * Causal attention of runs of rows over their sequence's pages, which hold the run's own keys already.
 *
 * A block takes up to 64 rows of one query head, 16 a warp, and goes over the pages that any of them sees. The longest
 * runs' last rows see most, so a caller lists them first.
 */
#include "attention_plain.cuh"
#include "attention_tile.cuh"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32, STAGES = 2;
static_assert(WARPS * 16 == PREFILL_ROWS, "each warp takes 16 rows");

template <int D> __global__ void __launch_bounds__(THREADS) prefill_kernel(AttentionArgs args, const PrefillItem* items) {
  extern __shared__ __align__(128) uint8_t memory[];
  PageTile<D>* stages = reinterpret_cast<PageTile<D>*>(memory);
  wait_for_previous_kernels();
  const PrefillItem item = items[blockIdx.y];
  const int head = blockIdx.x, kv = head / (args.num_heads / args.num_kv_heads);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int end = item.position + item.num_rows; /* positions below it are seen by some row */
  const int block_first = args.window > 0 ? max(0, item.position + 1 - args.window) : 0;
  const int begin = block_first / PAGE_TOKENS * PAGE_TOKENS;
  const int num_pages = (end - begin + PAGE_TOKENS - 1) / PAGE_TOKENS;

  const auto fetch = [&](int i) {
    if (i < num_pages) {
      const int from = begin + i * PAGE_TOKENS;
      const bf16* page = args.layer_kv + args.pages[item.pages_at + from / PAGE_TOKENS] * args.page_stride;
      fetch_page<D, THREADS>(stages[i % STAGES], page, kv, args.num_kv_heads, min(PAGE_TOKENS, end - from));
    }
    copy_async_commit();
  };
  fetch(0);

  const int warp_rows = min(16, item.num_rows - warp * 16); /* may be negative */
  QueryFragment<D> q;
  q.load(args.qkv + static_cast<int64_t>(item.row + warp * 16) * args.qkv_stride + head * D, args.qkv_stride, warp_rows);
  const int warp_position = item.position + warp * 16;
  const int positions[2] = {warp_position + g, warp_position + g + 8};
  float sums[D / 8][4];
#pragma unroll
  for (int d = 0; d < D / 8; d++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[d][i] = 0.0f;
  float maxima[2] = {-INFINITY, -INFINITY}, totals[2] = {0.0f, 0.0f};
  const float scale = args.scale * LOG2E;

  for (int i = 0; i < num_pages; i++) {
    fetch(i + 1);
    copy_async_wait<1>();
    __syncthreads();
    const PageTile<D>& tile = stages[i % STAGES];
    const int from = begin + i * PAGE_TOKENS;
    const bool sees = warp_rows > 0 && from < warp_position + warp_rows &&
                      (args.window == 0 || from + PAGE_TOKENS > warp_position + 1 - args.window);
    if (sees) {
      float scores[PAGE_TOKENS / 16][2][4];
#pragma unroll
      for (int j = 0; j < PAGE_TOKENS / 16; j++) score_16<D>(q, tile, j * 16, scores[j]);
      const bool masked = from + PAGE_TOKENS > warp_position || args.window > 0;
      float seen[2] = {maxima[0], maxima[1]};
#pragma unroll
      for (int j = 0; j < PAGE_TOKENS / 16; j++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int position = from + j * 16 + n * 8 + t * 2 + e % 2, own = positions[e / 2];
            const bool visible = !masked || (position <= own && (args.window == 0 || position > own - args.window));
            scores[j][n][e] = visible ? scores[j][n][e] * scale : -INFINITY;
            seen[e / 2] = fmaxf(seen[e / 2], scores[j][n][e]);
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
      for (int j = 0; j < PAGE_TOKENS / 16; j++) {
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            scores[j][n][e] = weight_of(scores[j][n][e], maxima[e / 2]);
            totals[e / 2] += scores[j][n][e];
          }
        gather_16<D>(scores[j], tile, j * 16, sums);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float inverse = 1.0f / quad_sum(totals[r]);
    const int row = g + r * 8;
    if (row >= warp_rows) continue;
    bf16* out = args.out + static_cast<int64_t>(item.row + warp * 16 + row) * args.out_stride + head * D;
#pragma unroll
    for (int d = 0; d < D / 8; d++)
      *reinterpret_cast<uint32_t*>(out + d * 8 + t * 2) = pack_bf16(sums[d][2 * r] * inverse, sums[d][2 * r + 1] * inverse);
  }
}

__global__ void prefill_plain_kernel(AttentionArgs args, const PrefillItem* items) {
  wait_for_previous_kernels();
  const PrefillItem item = items[blockIdx.y];
  for (int r = 0; r < item.num_rows; r++) attend_plainly(args, item.row + r, item.position + r, item.pages_at, blockIdx.x);
}

template <int D> void prefill_fast(const AttentionArgs& args, const PrefillItem* items, int num_items, Queue queue) {
  static const bool allowed = (allow_shared_bytes(prefill_kernel<D>, STAGES * sizeof(PageTile<D>)), true);
  (void)allowed;
  launch(prefill_kernel<D>, dim3(args.num_heads, num_items), dim3(THREADS), STAGES * sizeof(PageTile<D>), queue, args, items);
}

}  // namespace

void prefill_attention(const AttentionArgs& args, const PrefillItem* items, int num_items, Queue queue) {
  switch (args.head_dim) {
    case 64: return prefill_fast<64>(args, items, num_items, queue);
    case 96: return prefill_fast<96>(args, items, num_items, queue);
    case 128: return prefill_fast<128>(args, items, num_items, queue);
    case 256: return prefill_fast<256>(args, items, num_items, queue);
    default: launch(prefill_plain_kernel, dim3(args.num_heads, num_items), dim3(32), 0, queue, args, items);
  }
}

}  // namespace lorikeet
